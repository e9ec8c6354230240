//! What to set in a server so that each of its workers has a listener of its own. docs/servers.md
//! has the whole table.

/// The beginnings of programs' names, and what to set in these programs.
const BY_PROGRAM: [(&[&str], &str); 9] = [
    (&["bun"], "Bun: reusePort: true, in each process"),
    (
        &["node", "PM2", "pm2"],
        "Node 22.12 or later: listen({ port, reusePort: true })",
    ),
    (
        &["deno"],
        "Deno: reusePort: true, in several processes; workers of deno serve --parallel share one listener",
    ),
    (&["nginx"], "nginx: listen ... reuseport"),
    (&["haproxy"], "HAProxy: bind ... shards by-thread"),
    (
        &["gunicorn"],
        "gunicorn: --reuse-port, in releases after 23.0; until 23.0, several gunicorns with --reuse-port \
         and one worker each",
    ),
    (
        &["granian"],
        "granian 2.8 or later: its workers do so by themselves",
    ),
    (
        &["uvicorn", "hypercorn", "sanic", "puma", "ruby"],
        "its workers share one listener: start several servers with one worker each, and bind their \
         sockets with SO_REUSEPORT",
    ),
    (
        &["python"],
        "Python: asyncio's reuse_port=True, or gunicorn --reuse-port",
    ),
];

/// The advice for any other program.
const GENERAL: &str = "Bun and Node: reusePort: true, nginx: listen ... reuseport, gunicorn: --reuse-port; \
                       for other servers see docs/servers.md";

/// What to set in this program so that each of its workers has a listener of its own.
pub fn own_listeners(program: &str) -> &'static str {
    let of = |names: &[&str]| names.iter().any(|name| program.starts_with(name));
    let known = BY_PROGRAM.iter().find(|(names, _)| of(names));
    known.map_or(GENERAL, |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::{GENERAL, own_listeners};

    #[test]
    fn each_server_is_told_its_own() {
        assert!(own_listeners("gunicorn: worke").contains("--reuse-port"));
        assert!(own_listeners("bun.exe").starts_with("Bun"));
        assert!(own_listeners("python3.11").starts_with("Python"));
        assert!(own_listeners("nginx").starts_with("nginx"));
        assert_eq!(own_listeners("my-server"), GENERAL);
    }
}
