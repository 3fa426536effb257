-- SPDX-License-Identifier: MIT
-- Runs in the test host (spec/host/host.c): a scenario again and again, each time in a Lua state of
-- its own, each time with another allocation or call that fails, until none is left. Prints how
-- many times it was run with a failure, and how many calls failed in all. spec/support/faults.lua
-- starts it.
--
-- Arguments: the scenario's file; how many failures in a row ("all": no end); the functions that
-- fail, between spaces ("": allocations of the Lua state); the errno (0: the usual one);
-- a list of patterns, between bars, one of which an error must match; "all" to try every n, "few" for
-- some, "" for what the ordinary suite does.

local support = require "spec.support"

local path, times, functions, errno, allowed, effort = ...
times = math.tointeger(tonumber(times))
errno = math.tointeger(tonumber(errno))
if functions == "" then
  functions = nil
end
local code = support.read_file(path)

local FAR = 1 << 40 -- never reached

-- So many are tried one by one, then each that is a PART further than the one before.
local FIRST, PART = functions and 40 or 100, 16
if effort == "all" then
  FIRST = math.huge
elseif effort == "few" then
  FIRST, PART = 4, 3
end

-- Other threads call at their own pace: they may meet fewer calls than the time before.
local ENOUGH = functions and 3 or 1

local function is_allowed(message)
  for pattern in allowed:gmatch "[^|]+" do
    if message:find(pattern) then
      return true
    end
  end
  return false
end

local function look()
  return { blocks = testhost.blocks(), descriptors = support.fds(), threads = support.threads() }
end

-- What is more than before; a thread that was joined leaves /proc a moment later.
local function find_left(before)
  for attempt = 1, 20 do
    local now, name = look(), nil
    for key, value in pairs(now) do
      if value > before[key] then
        name = key
      end
    end
    if not name then
      return nil
    end
    if attempt == 20 then
      return ("%d %s"):format(now[name] - before[name], name)
    end
    os.execute "sleep 0.02"
  end
end

-- What is made once in a process and kept comes first, as libuv's signal pipe.
for _, source in ipairs { "arm() require 'concur'.run(type, 1)", code } do
  local failed, ok, message = testhost.run(source, FAR, times, functions, errno)
  assert(failed == 0)
  assert(ok, message)
end

local before = look()
local n, untouched, runs, calls = 1, 0, 0, 0
while untouched < ENOUGH do
  io.stderr:write(n, " ") -- where it hung or crashed, if it does
  local failed, ok, message = testhost.run(code, n, times, functions, errno)
  if failed == 0 then
    assert(ok, message)
    untouched = untouched + 1
  else
    untouched, runs, calls = 0, runs + 1, calls + failed
  end
  if not ok and not is_allowed(message) then
    error(("failing call %d gave: %s"):format(n, message), 0)
  end
  local left = find_left(before)
  if left then
    error(("failing call %d left %s behind"):format(n, left), 0)
  end
  n = n + 1
  if n > FIRST then
    n = n + n // PART
  end
end
print(runs, calls)
