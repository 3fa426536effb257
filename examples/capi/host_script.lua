-- SPDX-License-Identifier: MIT
-- What examples/capi/host.c runs: it starts tasks and returns; the host's loop drives them. Without
-- that host (run by lua itself) it drives them on its own, at the end.

local concur = require "concur"

local tasks = {
  concur.spawn(function()
    for i = 1, 3 do
      concur.sleep(0.01)
      print("task: nap " .. i)
    end
  end),
  concur.spawn(function()
    print("task: a thread says " .. concur.to_thread(string.upper, "hello"))
  end),
}

if arg then -- lua sets it, this host does not
  concur.gather(tasks)
end
