-- SPDX-License-Identifier: MIT
-- run_in_executor(nil, ...): the default pool, with nothing to set up or to shut down.

local concur = require "concur"

-- Runs in a worker thread. Variables from outside are copied along, `limit` here.
local limit = 200000
local function count_primes(from)
  local count = 0
  for n = from, from + limit // 100 do
    local prime = n > 1
    for d = 2, math.floor(math.sqrt(n)) do
      if n % d == 0 then
        prime = false
        break
      end
    end
    if prime then
      count = count + 1
    end
  end
  return count
end

concur.run(function()
  local loop = concur.get_event_loop()
  local first = loop:run_in_executor(nil, count_primes, 1)
  local second = loop:run_in_executor(nil, count_primes, 1000000)
  print("first future:", first:state())

  local small, large = concur.gather(first, second)
  print(("primes in the first %d numbers: %d"):format(limit // 100, small))
  print(("and from a million on: %d"):format(large))
  assert(small == count_primes(1))
  assert(large == count_primes(1000000))
  assert(small > large, "primes get rarer")
end)
