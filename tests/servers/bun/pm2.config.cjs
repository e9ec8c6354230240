// WORKERS workers under PM2 in fork mode.
module.exports = {
  apps: [
    {
      name: "workers",
      script: `${__dirname}/worker.js`,
      interpreter: process.env.BUN,
      exec_mode: "fork",
      instances: Number(process.env.WORKERS),
    },
  ],
};
