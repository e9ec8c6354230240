// WORKERS workers under PM2 in fork mode, each of which PM2 waits for until it says "ready".
module.exports = {
  apps: [
    {
      name: "rolling",
      script: `${__dirname}/rolling.js`,
      interpreter: process.env.BUN,
      exec_mode: "fork",
      instances: Number(process.env.WORKERS),
      wait_ready: true,
      listen_timeout: 10000,
      kill_timeout: 10000,
    },
  ],
};
