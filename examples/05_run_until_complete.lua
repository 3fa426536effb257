-- SPDX-License-Identifier: MIT
-- The event loop as an object: run_until_complete drives it until one task or future is done.

local concur = require "concur"

local loop = concur.get_event_loop()

-- An async function: calling it starts a task and returns it at once.
local double = concur.async(function(x)
  concur.sleep(0.1)
  return 2 * x
end)

local task = double(21)
print("before the loop runs:", task:state())
assert(task:state() == "pending")

local answer = loop:run_until_complete(task)
print("the result:", answer)
assert(answer == 42)

-- Callbacks and timers, as in every event loop.
local log = {}
loop:call_later(0.02, function() log[#log + 1] = "later" end)
loop:call_soon(function() log[#log + 1] = "soon" end)
loop:call_later(0.04, function() loop:stop() end)
loop:run_forever()
print("callbacks came in this order:", table.concat(log, ", "))
assert(table.concat(log, " ") == "soon later")

loop:close()
