// SPDX-License-Identifier: MIT
// One sample of a workload in JavaScript: node --expose-gc child.js WORKLOAD.js SECONDS BATCH
// See child.lua. The workload defines `async function work(n)`, and may define `stop()`; or it
// defines `serve(port)`: then SECONDS is the word serve, and BATCH the port.
const { readFileSync } = require('fs');
const [path, seconds, batch] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const PARTS = 3;
const { work, stop, serve } = new Function('require',
  readFileSync(path, 'utf8') + `
    return {
      work: typeof work === "function" && work,
      stop: typeof stop === "function" && stop,
      serve: typeof serve === "function" && serve,
    };`,
)(require);
const wallClock = () => Number(process.hrtime.bigint());
const cpuClock = () => { const used = process.cpuUsage(); return (used.user + used.system) * 1000; };

(async () => {
  if (process.argv[3] === 'serve') return serve(batch);
  const start = wallClock();
  await work(batch);
  const parts = wallClock() - start < seconds * 1e9 ? PARTS : 1;
  for (let part = 0; part < parts; part++) {
    gc();
    let operations = 0;
    const wall = wallClock(), cpu = cpuClock();
    const end = wall + seconds / parts * 1e9;
    do {
      await work(batch);
      operations += batch;
    } while (wallClock() < end);
    console.log((wallClock() - wall) / operations, (cpuClock() - cpu) / operations);
  }
  if (stop) stop();
})();
