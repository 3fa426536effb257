-- SPDX-License-Identifier: MIT
-- A host forked while a select waited with an arm of a channel, and a thread was using that channel: in
-- the child the finalizer of the arm waited for the channel's lock, which nobody there gives back.

local support = require "spec.support"

describe("a child of a fork with a channel's arm", function()
  it("ends", function()
    local result = support.run_lua([[
      local concur = require "concur"
      local function use(channel, stop)
        while not stop:closed() do
          for _ = 1, 1000 do channel:size() end -- takes its lock, and no memory
        end
      end
      concur.run(function()
        local channel, stop = concur.Channel(1), concur.Channel(1)
        local thread = concur.ThreadPoolExecutor(1):submit(use, channel, stop)
        local waits = concur.spawn(concur.select, { channel:receiving() })
        concur.sleep(0.01)
        for _ = 1, 100 do
          if testhost.fork() == 0 then os.exit(7, true) end
          assert(testhost.wait() == 7)
        end
        waits:cancel()
        stop:close()
        thread:result()
      end)
    ]], {
      lua = support.host,
      timeout = 20,
      env = { ASAN_OPTIONS = "detect_leaks=0" }, -- the child leaks on purpose
    })
    assert.equal(0, result.code, support.describe(result))
  end)
end)
