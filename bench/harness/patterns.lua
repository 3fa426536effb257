-- SPDX-License-Identifier: MIT
-- What several workloads have in common.

local patterns = {}

---The limit of tasks that take turns: coroutines that yield in C and are resumed from C. Each of them
---yields once for so many operations.
---@param count integer coroutines
---@param operations integer
---@return function implementation
function patterns.in_turn(count, operations)
  return function(native)
    return function(n)
      local yield = native.yield
      local function loop()
        for _ = 1, n // operations do
          yield()
        end
      end
      local coroutines = {}
      for i = 1, count do
        coroutines[i] = coroutine.create(loop)
      end
      native.drive(table.unpack(coroutines))
    end
  end
end

---cqueues has no gather: runs `task(i)` for each i from 1 to `count` in a task of its own, and returns
---when all have ended.
---@param controller userdata
---@param count integer
---@param task fun(i: integer)
function patterns.cqueues_gather(controller, count, task)
  local left, ended = count, require "cqueues.condition".new()
  for i = 1, count do
    controller:wrap(function()
      task(i)
      left = left - 1
      if left == 0 then
        ended:signal()
      end
    end)
  end
  ended:wait()
end

return patterns
