-- SPDX-License-Identifier: MIT
-- A lookup whose task never ran again, because a stranger had closed its coroutine, kept its memory
-- (2 KiB) until the loop was closed.

local support = require "spec.support"

describe("a lookup whose task is lost", function()
  it("frees its memory", function()
    support.check_lua([[
      local concur = require "concur"
      local dns = require "concur.dns"
      local resident = require "spec.support.resident"
      local function look_up()
        dns.resolve("127.0.0.1", "http") -- a name of a service: asked on a thread
      end
      local function lose(count, wait)
        local tasks = {}
        for i = 1, count do
          local co
          tasks[i] = concur.spawn(function()
            co = coroutine.running()
            wait(0.001)
          end)
          concur.checkpoint()
          coroutine.close(co)
        end
        concur.wait(tasks)
        for _, task in ipairs(tasks) do
          assert(not pcall(task.result, task))
        end
        collectgarbage()
        collectgarbage()
      end
      local function growth(wait)
        local before
        for round = 1, 30 do
          lose(200, wait)
          look_up() -- behind the others: they are over
          before = round == 10 and resident() or before
        end
        return resident() - before
      end
      concur.run(function()
        local usual = growth(concur.sleep) -- of the tasks themselves
        local grown = growth(look_up)
        assert(grown < usual + 5000, grown .. " KiB more, and not " .. usual)
      end)
    ]], { env = { -- what is freed can be used again at once
      ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":quarantine_size_mb=1",
    } })
  end)
end)
