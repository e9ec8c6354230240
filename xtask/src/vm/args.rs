//! The command line of `cargo xtask vm`.

use super::version::Series;

/// Arguments of `cargo xtask vm`: which kernels, and what to run on them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Series of kernels: 6.12, 7, or a whole version as 6.18.15; of each, the newest that Debian
    /// has
    #[arg(default_values = ["5.10", "6.1", "6.12", "6.18", "7"], value_name = "SERIES")]
    pub(super) kernels: Vec<Series>,

    /// Run only these modules of tests, or all modules of these programs; a kernel that steer
    /// doesn't support always runs the module that shows the refusal
    #[arg(long = "test", value_name = "NAME")]
    pub(super) tests: Vec<String>,

    /// Run only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(super) filter: Option<String>,

    /// Fetch and unpack what the machines are made of, and run nothing
    #[arg(long, conflicts_with_all = ["tests", "filter", "append"])]
    pub(super) fetch: bool,

    /// After how many seconds a machine is given up
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(super) timeout: u64,

    /// Memory of a machine in MiB
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    pub(super) memory: u32,

    /// Text to add to the kernel's command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) append: Option<String>,
}
