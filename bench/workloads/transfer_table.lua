-- SPDX-License-Identifier: MIT
-- A table of ten fields, copied as on the way to a worker and out of it: bytes and back.

return {
  title = "copy a table of ten fields",
  unit = "copy",
  batch = 2000,

  concur = function()
    local core = require "concur.core"
    local value = { id = 1, name = "two", x = 3.5, y = -4, ok = true, text = "six seven eight",
      seven = 7, eight = 8.25, nine = "9", ten = false }
    return function(n)
      for _ = 1, n do
        core.decode(core.encode(value))
      end
    end
  end,

  python = [[
import pickle

value = {'id': 1, 'name': 'two', 'x': 3.5, 'y': -4, 'ok': True, 'text': 'six seven eight',
         'seven': 7, 'eight': 8.25, 'nine': '9', 'ten': False}

async def work(n):
    for _ in range(n):
        pickle.loads(pickle.dumps(value, 5))
]],

  node = [[
const value = { id: 1, name: 'two', x: 3.5, y: -4, ok: true, text: 'six seven eight',
  seven: 7, eight: 8.25, nine: '9', ten: false };

async function work(n) {
  for (let i = 0; i < n; i++) structuredClone(value);
}
]],
}
