-- SPDX-License-Identifier: MIT
-- A job stayed in the queue of a process pool for ever, beside workers that had nothing to do:
-- * jobs that were taken back kept their places in the link until the worker had skipped them, and it
--   did not say that it had;
-- * a job that waited for the start of one worker was moved to others that were starting as well, or
--   to another place of the same one, and used all places up.

local concur = require "concur"
local support = require "spec.support"

local PLACES = 32 -- of one worker's link
local SCALE = support.time_scale

local function pid()
  local file <close> = assert(io.open "/proc/self/stat")
  return file:read "n"
end

local function in_time(future)
  return concur.timeout(5 * SCALE, function() return future:result() end)
end

describe("a process pool", function()
  it("hands a job out when a worker has skipped all that it was sent", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      local worker = pool:run(pid)
      os.execute("kill -STOP " .. worker)
      for i = 1, PLACES do
        local taken_back = pool:submit(math.abs, i)
        concur.sleep(0.001)
        assert.is_true(taken_back:cancel())
      end
      local job = pool:submit(math.abs, -7)
      concur.sleep(0.001)
      assert.equal(1, pool:stats().queued)
      os.execute("kill -CONT " .. worker)
      assert.equal(7, in_time(job))
    end)
  end)

  it("leaves a job where it is while no other worker could begin sooner", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor {
        workers = 2,
        init = function() os.execute "sleep 0.3" end,
      }
      local job, other = pool:submit(math.abs, -7), pool:submit(math.abs, -8)
      concur.sleep(0.001)
      assert.is_true(other:cancel())
      for i = 1, 2 * PLACES do -- each of them makes the pool look who could do what
        local taken_back = pool:submit(math.abs, i)
        concur.sleep(0.001)
        taken_back:cancel()
      end
      assert.equal(0, pool:stats().queued)
      assert.equal(7, in_time(job))
    end)
  end)
end)
