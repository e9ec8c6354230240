// One Bun worker: `/block?ms=50` blocks its event loop for that long without burning CPU. Every
// answer is the pid.
Bun.serve({
  port: Number(process.env.PORT),
  reusePort: true,
  fetch(request) {
    const ms = Number(new URL(request.url).searchParams.get("ms"));
    if (ms > 0) Bun.sleepSync(ms);
    return new Response(`${process.pid}\n`);
  },
});
