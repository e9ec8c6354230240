// One Bun worker that PM2 restarts: `/20` blocks its event loop for 20 ms without burning CPU.
//
// On SIGINT it stops listening, writes down which connections it has accepted, and finishes them;
// with ENDING=exit it ends without finishing anything. What it appends to CLAIMS is what
// tests/src/churn/claims.rs reads.
import { appendFileSync, readdirSync, readlinkSync } from "node:fs";
import { dlopen, ptr } from "bun:ffi";

const { symbols: libc } = dlopen("libc.so.6", {
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
  getpeername: { args: ["i32", "ptr", "ptr"], returns: "i32" },
});
const CLOCK_MONOTONIC = 1;

function now() {
  const time = new BigInt64Array(2);
  libc.clock_gettime(CLOCK_MONOTONIC, ptr(time));
  return time[0] * 1_000_000_000n + time[1];
}

// The clients' ports of all connections that this process has open.
function accepted() {
  const address = new DataView(new ArrayBuffer(28));
  const length = new Uint32Array(1);
  const ports = [];
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      if (!readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:")) continue;
    } catch {
      continue; // The directory's own descriptor.
    }
    length[0] = address.byteLength;
    // Neither a listener nor PM2's channel has a peer with a port.
    if (libc.getpeername(Number(fd), ptr(address.buffer), ptr(length)) !== 0) continue;
    const port = address.getUint16(2);
    if (length[0] === 28 && port !== 0) ports.push(port);
  }
  return ports;
}

const server = Bun.serve({
  port: Number(process.env.PORT),
  reusePort: true,
  fetch(request) {
    const ms = Number(new URL(request.url).pathname.slice(1));
    if (ms > 0) Bun.sleepSync(ms);
    return new Response(`${process.pid}\n`);
  },
});

process.on("SIGINT", async () => {
  const before = now();
  const stopped = server.stop();
  const at = now();
  const lines = accepted().map((port) => `accepted ${port} ${at}\n`);
  lines.push(`drained ${before}\nclosed ${at}\n`);
  appendFileSync(process.env.CLAIMS, lines.join(""));
  if (process.env.ENDING !== "exit") await stopped;
  process.exit(0);
});

process.send("ready");
