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
  local a, b, c = concur.gather(
    function() return factorial("A", 4) end,
    function() return factorial("B", 2) end,
    function() return factorial("C", 3) end)
  print(("A = %d, B = %d, C = %d"):format(a, b, c))
  assert(a == 24 and b == 2 and c == 6)
  assert(table.concat(finished) == "BCA", "the shortest is done first")

  -- The same with tasks that were started before.
  local slow = concur.spawn(concur.sleep, 0.10, "slow")
  local fast = concur.spawn(concur.sleep, 0.05, "fast")
  local results = concur.gather { first = slow, second = fast }
  print(results.first, results.second)
  assert(results.first == "slow" and results.second == "fast")
end)
