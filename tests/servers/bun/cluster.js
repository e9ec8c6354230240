// Starts WORKERS workers with node:cluster. In Bun each of them has a listener of its own.
import cluster from "node:cluster";

if (cluster.isPrimary) {
  for (let count = Number(process.env.WORKERS); count > 0; count--) cluster.fork();
} else {
  await import("./worker.js");
}
