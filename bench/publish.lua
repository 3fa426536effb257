-- SPDX-License-Identifier: MIT
-- Puts the results of bench/run.lua, echo_cores.lua, memory.lua and sweep.lua into docs/performance.md,
-- between its marks, and their pictures beside it. What the figures mean is written by hand.

package.path = "bench/?.lua;" .. package.path

local system = require "harness.system"

local build = os.getenv "CONCUR_BUILD" or "build"
local REPORT = "docs/performance.md"

-- Replaces what is between <!-- mark --> and <!-- /mark -->.
local function splice(text, mark, block)
  local open, close = ("<!-- %s -->\n"):format(mark), ("<!-- /%s -->"):format(mark)
  local _, start = text:find(open, 1, true)
  local stop = text:find(close, 1, true)
  assert(start and stop, "no marks for " .. mark .. " in " .. REPORT)
  return text:sub(1, start) .. block .. text:sub(stop)
end

local text = system.read_file(REPORT)
for mark, file in pairs {
  results = "bench.md",
  echo = "bench-echo.md",
  cores = "cores.md",
  memory = "memory.md",
  curves = "sweep.md",
} do
  text = splice(text, mark, system.read_file(build .. "/" .. file))
end
system.write_file(REPORT, text)
system.write_file("docs/performance.svg", system.read_file(build .. "/bench.svg"))
system.write_file("docs/growth.svg", system.read_file(build .. "/sweep.svg"))
