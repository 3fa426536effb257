// SPDX-License-Identifier: MIT
// One sample of a workload in JavaScript: node --expose-gc child.js WORKLOAD.js SECONDS BATCH
// See child.lua. The workload defines `async function work(n)`, and may define `stop()`.
const { readFileSync } = require('fs');
const [path, seconds, batch] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const PARTS = 3;
const { work, stop } = new Function('require',
  readFileSync(path, 'utf8') + '\nreturn { work, stop: typeof stop === "function" && stop };',
)(require);
const wallClock = () => Number(process.hrtime.bigint());
const cpuClock = () => { const used = process.cpuUsage(); return (used.user + used.system) * 1000; };

(async () => {
  await work(batch);
  for (let part = 0; part < PARTS; part++) {
    gc();
    let operations = 0;
    const wall = wallClock(), cpu = cpuClock();
    const end = wall + seconds / PARTS * 1e9;
    do {
      await work(batch);
      operations += batch;
    } while (wallClock() < end);
    console.log((wallClock() - wall) / operations, (cpuClock() - cpu) / operations);
  }
  if (stop) stop();
})();
