-- SPDX-License-Identifier: MIT
-- No run, no main: in a plain script, and in the REPL, waiting simply works.

local concur = require "concur"

print(concur.sleep(0.05, "a sleep"))

local function square(x)
  concur.sleep(0.05)
  return x * x
end

local a, b = concur.gather(
  function() return square(3) end,
  function() return square(4) end)
print("gathered:", a, b)
assert(a == 9 and b == 16)

-- A task spawned here advances whenever something waits.
local task = concur.spawn(square, 5)
print("spawned:", task:state())
print("waited for:", task:result())
assert(task:result() == 25)

print("in a thread:", concur.to_thread(string.rep, "ab", 3))
