-- SPDX-License-Identifier: MIT
-- Blocking calls on worker threads, outside of any event loop. The results come as they are done.

local concur = require "concur"

-- Blocks its whole thread. It runs in a worker: nothing else there can see the variables of this
-- file, except those that it uses, which are copied (here: none).
local function blocking_call(units)
  os.execute(("sleep %.1f"):format(units * 0.2))
  return units
end

local start = concur.now()
local pool <close> = concur.ThreadPoolExecutor(3)

local futures = {
  pool:submit(blocking_call, 3),
  pool:submit(blocking_call, 1),
  pool:submit(blocking_call, 2),
}

local order = {}
for future in concur.as_completed(futures) do
  local units = future:result()
  order[#order + 1] = units
  print(("a call of %d units is done after %.1f s"):format(units, concur.now() - start))
end

local took = concur.now() - start
print(("6 units of blocking in %.1f s"):format(took))
assert(table.concat(order, " ") == "1 2 3")
assert(took >= 0.6 and took < 1.1, "one after the other would have taken 1.2 s")
