# Runs a command in a directory that has a system in it, as if that were the machine's system. The
# caller gives this script a mount namespace of its own (`unshare --mount`). The directory becomes
# the root of that namespace. All that is mounted here goes with the namespace.
#
# sh enter.sh ROOT TOOLCHAIN PROGRAM [ARG...]
set -eu
root=$1 toolchain=$2
shift 2

mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=0755 run run
mkdir -p "root/.rustup/toolchains/$(basename "$toolchain")"
mount --bind -o ro "$toolchain" "root/.rustup/toolchains/$(basename "$toolchain")"

pivot_root . mnt
umount --lazy /mnt
cd /root/steer
exec "$@"
