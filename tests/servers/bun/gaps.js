// One Bun worker: `/block?ms=50` keeps its event loop for that long asleep, `/burn?ms=50` busy. Every answer is
// the pid.
Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT),
  reusePort: true,
  fetch(request) {
    const url = new URL(request.url);
    const ms = Number(url.searchParams.get("ms"));
    if (url.pathname === "/block" && ms > 0) Bun.sleepSync(ms);
    const end = performance.now() + ms;
    while (url.pathname === "/burn" && performance.now() < end);
    return new Response(`${process.pid}\n`, { headers: { Connection: "close" } });
  },
});
