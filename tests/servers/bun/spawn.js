// Starts WORKERS workers with Bun.spawn.
const command = [process.execPath, `${import.meta.dir}/worker.js`];
const stdio = ["ignore", "inherit", "inherit"];
const workers = Array.from({ length: Number(process.env.WORKERS) }, () =>
  Bun.spawn(command, { stdio }),
);
await Promise.all(workers.map((worker) => worker.exited));
