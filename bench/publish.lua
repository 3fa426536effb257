-- SPDX-License-Identifier: MIT
-- Puts the results of bench/run.lua, memory.lua and sweep.lua into docs/performance.md, between its
-- marks, and their pictures beside it. What the figures mean is written by hand.

local build = os.getenv "CONCUR_BUILD" or "build"
local REPORT = "docs/performance.md"

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

local function write(path, text)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(text))
  print("written to " .. path)
end

-- Replaces what is between <!-- mark --> and <!-- /mark -->.
local function splice(text, mark, block)
  local open, close = ("<!-- %s -->\n"):format(mark), ("<!-- /%s -->"):format(mark)
  local _, start = text:find(open, 1, true)
  local stop = text:find(close, 1, true)
  assert(start and stop, "no marks for " .. mark .. " in " .. REPORT)
  return text:sub(1, start) .. block .. text:sub(stop)
end

local text = read(REPORT)
text = splice(text, "results", read(build .. "/bench.md"))
text = splice(text, "memory", read(build .. "/memory.md"))
text = splice(text, "curves", read(build .. "/sweep.md"))
write(REPORT, text)
write("docs/performance.svg", read(build .. "/bench.svg"))
write("docs/growth.svg", read(build .. "/sweep.svg"))
