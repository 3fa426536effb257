-- SPDX-License-Identifier: MIT
-- A time-out, a cancelled task, and clean-up that always runs.

local concur = require "concur"

-- A resource that shows when it is released.
local function open(name)
  print("open   " .. name)
  return setmetatable({}, {
    __close = function()
      print("close  " .. name)
    end,
  })
end

concur.run(function()
  -- timeout ends what takes too long, waits for its clean-up, and raises TimeoutError.
  local ok, err = pcall(concur.timeout, 0.1, function()
    local _ <close> = open "slow thing"
    concur.sleep(60)
  end)
  print("timeout:", ok, err.kind)
  assert(not ok and concur.errors.is(err, "TimeoutError"))

  -- cancel asks a task to stop. Its next wait raises Cancelled.
  local task = concur.spawn(function()
    local _ <close> = open "background thing"
    concur.sleep_forever()
  end)
  concur.sleep(0.05)
  task:cancel "no longer needed"
  local _, reason = pcall(task.result, task)
  print("task:", task:state(), reason.kind, reason.reason)
  assert(task:state() == "cancelled" and reason.kind == "FutureCancelled")

  -- If one of several fails, the others are cancelled, and waited for.
  ok, err = pcall(concur.gather, function()
    local _ <close> = open "sibling"
    concur.sleep(60)
  end, function()
    concur.sleep(0.05)
    error("the other one failed", 0)
  end)
  print("gather:", ok, err)
  assert(not ok and err == "the other one failed")
end)
