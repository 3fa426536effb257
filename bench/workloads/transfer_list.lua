-- SPDX-License-Identifier: MIT
-- A list of 1,000 integers, copied as on the way to a worker and out of it: bytes and back.

return {
  title = "copy a list of 1,000 integers",
  unit = "copy",
  batch = 100,

  concur = function()
    local core = require "concur.core"
    local value = {}
    for i = 1, 1000 do
      value[i] = i * 1000
    end
    return function(n)
      for _ = 1, n do
        core.decode(core.encode(value))
      end
    end
  end,

  python = [[
import pickle

value = [i * 1000 for i in range(1, 1001)]

async def work(n):
    for _ in range(n):
        pickle.loads(pickle.dumps(value, 5))
]],

  node = [[
const value = [];
for (let i = 1; i <= 1000; i++) value.push(i * 1000);

async function work(n) {
  for (let i = 0; i < n; i++) structuredClone(value);
}
]],
}
