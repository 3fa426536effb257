-- SPDX-License-Identifier: MIT
-- A lookup whose task never ran again, because a stranger had closed its coroutine, kept its memory
-- (2 KiB) until the loop was closed.

local support = require "spec.support"

describe("a lookup whose task is lost", function()
  it("frees its memory", function()
    support.check_lua [[
      local concur = require "concur"
      local dns = require "concur.dns"
      local function resident() -- KiB
        for line in io.lines "/proc/self/status" do
          local size = line:match "^VmRSS:%s+(%d+)"
          if size then return tonumber(size) end
        end
      end
      local function lose(count)
        local tasks = {}
        for i = 1, count do
          local co
          tasks[i] = concur.spawn(function()
            co = coroutine.running()
            dns.resolve("127.0.0.1", "http") -- a name of a service: asked on a thread
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
      concur.run(function()
        lose(200)
        local before = resident()
        for _ = 1, 20 do
          lose(200)
        end
        local grown = resident() - before
        print(grown)
        assert(grown < 5000, grown .. " KiB more")
      end)
    ]]
  end)
end)
