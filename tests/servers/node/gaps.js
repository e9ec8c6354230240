// One Node worker: `/block?ms=50` keeps its event loop for that long asleep, `/burn?ms=50` busy. Every answer is
// the pid.
const http = require("node:http");

const asleep = new Int32Array(new SharedArrayBuffer(4));
const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const ms = Number(url.searchParams.get("ms"));
  if (url.pathname === "/block" && ms > 0) Atomics.wait(asleep, 0, 0, ms);
  const end = performance.now() + ms;
  while (url.pathname === "/burn" && performance.now() < end);
  const body = `${process.pid}\n`;
  response.writeHead(200, { "Content-Length": body.length, Connection: "close" });
  response.end(body);
});
server.listen({ host: "127.0.0.1", port: Number(process.env.PORT), reusePort: true });
