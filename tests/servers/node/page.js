// One Node worker, or with CLUSTER=3 a cluster of as many behind one listener: `/` is a page that asks for three
// blocks of 300 ms at once, six times, and tells whoever listens at REPORT which workers answered.
const cluster = require("node:cluster");
const http = require("node:http");

const page = `<!doctype html><title>steer</title><script>
const ask = async () => (await fetch("/block?" + Math.random())).text();
(async () => {
  const rounds = [];
  for (let round = 0; round < 6; round += 1) rounds.push(await Promise.all([ask(), ask(), ask()]));
  const lines = rounds.map((pids) => pids.join(" ")).join("\\n");
  await fetch("http://127.0.0.1:${process.env.REPORT}/", { method: "POST", mode: "no-cors", body: lines });
})();
</script>`;

const workers = Number(process.env.CLUSTER);
if (workers > 0 && cluster.isPrimary) {
  for (let index = 0; index < workers; index += 1) cluster.fork();
} else {
  const asleep = new Int32Array(new SharedArrayBuffer(4));
  const server = http.createServer((request, response) => {
    if (request.url === "/") {
      response.writeHead(200, { "Content-Type": "text/html" });
      response.end(page);
    } else if (request.url.startsWith("/block")) {
      Atomics.wait(asleep, 0, 0, 300);
      response.end(`${process.pid}`);
    } else {
      // The icon.
      response.writeHead(404);
      response.end();
    }
  });
  const options = { host: "127.0.0.1", port: Number(process.env.PORT), reusePort: !(workers > 0) };
  server.listen(options, () => console.log("listening"));
}
