-- SPDX-License-Identifier: MIT
-- A blocking call in a thread, while the loop keeps ticking.

local concur = require "concur"

concur.run(function()
  local ticks = 0
  local ticker = concur.spawn(function()
    while true do
      concur.sleep(0.05)
      ticks = ticks + 1
      io.write("tick ")
      io.flush()
    end
  end)

  -- os.execute blocks its thread for half a second; this task waits, the ticker does not.
  local ok = concur.to_thread(os.execute, "sleep 0.5")

  ticker:cancel("the call is over")
  print(("\nthe call is over (%s), after %d ticks"):format(tostring(ok), ticks))
  assert(ok == true)
  assert(ticks >= 3, "the loop was blocked")
end)
