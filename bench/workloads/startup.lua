-- SPDX-License-Identifier: MIT
-- A whole process that loads the library and ends.

-- Runs `program` with a script, n times, in whatever language.
local function repeated(...)
  local command = { ... }
  return function()
    local native = require "native"
    return function(n)
      for _ = 1, n do
        local code = native.execute(table.unpack(command))
        assert(code == 0, "the process failed")
      end
    end
  end
end

local lua = os.getenv "CONCUR_LUA" or "lua5.4"

return {
  title = 'require "concur", process',
  unit = "process",
  batch = 3,
  goals = { { "luv", at_most = 1.1 } },

  concur = repeated(lua, "bench/harness/load.lua", "concur"),
  limit = repeated(lua, "bench/harness/load.lua"),
  luv = repeated(lua, "bench/harness/load.lua", "luv"),
  cqueues = repeated(lua, "bench/harness/load.lua", "cqueues"),

  python = [[
import subprocess
import sys

async def work(n):
    module = "uvloop" if "uvloop" in sys.argv else "asyncio"
    for _ in range(n):
        subprocess.run([sys.executable, "-c", "import " + module], check=True)
]],

  node = [[
const { spawnSync } = require('child_process');

async function work(n) {
  for (let i = 0; i < n; i++) spawnSync(process.execPath, ['-e', '0']);
}
]],
}
