// A Node cluster of WORKERS workers, each with a listener of its own; `/20` blocks its event loop for 20 ms. SIGUSR2
// replaces the workers one after the other: a new one listens before an old one stops.
const cluster = require("node:cluster");
const http = require("node:http");

const workers = Number(process.env.WORKERS);

if (cluster.isPrimary) {
  const fork = (index) =>
    new Promise((resolve) => {
      const worker = cluster.fork({ INDEX: index });
      // A listener of its own isn't announced by the cluster.
      worker.once("message", () => resolve(worker));
    });
  const current = [];
  const replace = async () => {
    for (let index = 0; index < workers; index += 1) {
      const old = current[index];
      current[index] = await fork(index);
      old.disconnect();
    }
  };
  let queue = (async () => {
    for (let index = 0; index < workers; index += 1) current.push(await fork(index));
  })();
  process.on("SIGUSR2", () => {
    queue = queue.then(replace);
  });
} else {
  const asleep = new Int32Array(new SharedArrayBuffer(4));
  const server = http.createServer((request, response) => {
    const ms = Number(request.url.slice(1));
    if (ms > 0) Atomics.wait(asleep, 0, 0, ms);
    const body = `${process.env.INDEX}\n`;
    response.writeHead(200, { "Content-Length": body.length, Connection: "close" });
    response.end(body);
  });
  const options = { host: "127.0.0.1", port: Number(process.env.PORT), reusePort: true };
  server.listen(options, () => process.send("listening"));
  process.on("disconnect", () => server.close());
}
