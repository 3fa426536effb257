-- SPDX-License-Identifier: MIT
-- The same blocking calls from inside a loop, which stays free for other tasks.

local concur = require "concur"

local function blocking_call(units)
  os.execute(("sleep %.1f"):format(units * 0.2))
  return units
end

concur.run(function()
  local start = concur.now()
  local loop = concur.get_event_loop()
  local pool <close> = concur.ThreadPoolExecutor { workers = 3 }

  local three, one, two = concur.gather(
    loop:run_in_executor(pool, blocking_call, 3),
    loop:run_in_executor(pool, blocking_call, 1),
    loop:run_in_executor(pool, blocking_call, 2))

  local took = concur.now() - start
  print(("results in the order of the calls: %d %d %d"):format(three, one, two))
  print(("6 units of blocking in %.1f s"):format(took))
  assert(three == 3 and one == 1 and two == 2)
  assert(took >= 0.6 and took < 1.1, "one after the other would have taken 1.2 s")
end)
