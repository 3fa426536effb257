-- SPDX-License-Identifier: MIT
-- Tasks of different length: gather gives the results in the order of its inputs, whoever is first.

local concur = require "concur"

local finished = {}

local function factorial(name, number)
  local result = 1
  for i = 2, number do
    print(("task %s: factorial(%d), at %d"):format(name, number, i))
    concur.sleep(0.05)
    result = result * i
  end
  print(("task %s: factorial(%d) = %d"):format(name, number, result))
  finished[#finished + 1] = name
  return result
end

concur.run(function()
  local results = concur.gather {
    A = function() return factorial("A", 4) end,
    B = function() return factorial("B", 2) end,
    C = function() return factorial("C", 3) end,
  }
  print(("A = %d, B = %d, C = %d"):format(results.A, results.B, results.C))
  assert(results.A == 24 and results.B == 2 and results.C == 6)
  assert(table.concat(finished) == "BCA", "the shortest is done first")

  -- The same with tasks that were started before.
  local slow = concur.spawn(concur.sleep, 0.10, "slow")
  local fast = concur.spawn(concur.sleep, 0.05, "fast")
  local a, b = concur.gather(slow, fast)
  print(a, b)
  assert(a == "slow" and b == "fast")
end)
