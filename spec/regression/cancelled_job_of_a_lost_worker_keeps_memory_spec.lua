-- SPDX-License-Identifier: MIT
-- A job that was cancelled while a part of it was with its worker was never freed, with all its
-- arguments, when that worker ended before it had taken the rest.

local support = require "spec.support"

describe("a cancelled job that was half sent to a worker which has ended", function()
  it("is freed", function()
    support.check_lua([[
      local concur = require "concur"
      local BIG = ("x"):rep(8 << 20)
      local resident = require "spec.support.resident"
      local function pid()
        local file <close> = assert(io.open "/proc/self/stat")
        return file:read "n"
      end
      local function lose()
        local pool <close> = concur.ProcessPoolExecutor(1)
        local worker = pool:run(pid)
        os.execute("kill -STOP " .. worker)
        local job = pool:submit(string.len, BIG)
        concur.sleep(0.001) -- it is handed out
        assert(job:cancel())
        os.execute("kill -KILL " .. worker)
      end
      concur.run(function()
        lose()
        collectgarbage()
        local before = resident()
        for _ = 1, 10 do
          lose()
          collectgarbage()
        end
        local grown = resident() - before
        assert(grown < 5 * (#BIG >> 10), grown .. " KiB more")
      end)
    ]], { env = { -- what is freed can be used again at once
      ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":quarantine_size_mb=1",
    } })
  end)
end)
