-- SPDX-License-Identifier: MIT
-- A job that was cancelled left the full queue without telling who waited for room there; with no job
-- after it, they waited for ever.

local concur = require "concur"

local makers = { threads = concur.ThreadPoolExecutor, processes = concur.ProcessPoolExecutor }

for name, make in pairs(makers) do
  describe("submit to a full queue of " .. name, function()
    it("goes on when the jobs in it are cancelled", function()
      local pool = make { workers = 1, queue_size = 2 }
      concur.timeout(20, function()
        local running = pool:submit("concur.sleep", 60)
        while pool:stats().queued > 0 do
          concur.sleep(0.001)
        end
        local queued = { pool:submit(math.abs, -1), pool:submit(math.abs, -2) }
        local waiting = {}
        for i = 1, 3 do
          waiting[i] = concur.spawn(function()
            return pool:submit(math.abs, -10 * i)
          end)
        end
        concur.sleep(0.01)
        for _, future in ipairs(queued) do
          assert.is_true(future:cancel())
        end
        waiting[1]:result()
        waiting[2]:result()
        running:cancel()
        for i, task in ipairs(waiting) do
          assert.equal(10 * i, task:result():result())
        end
      end)
      pool:shutdown { grace = 5 }
    end)
  end)
end
