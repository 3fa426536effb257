-- SPDX-License-Identifier: MIT
-- A stranger closed the coroutine of a task that waited in `channel:recv`. Also when the task had ended,
-- its place in the channel was kept: the next message went there, to nobody, and the memory was lost.

local concur = require "concur"

describe("a task whose coroutine is closed while it receives", function()
  local function lost_receiver(channel)
    local co
    local task = concur.spawn(function()
      co = coroutine.running()
      return channel:recv()
    end)
    concur.sleep(0)
    coroutine.close(co)
    return task
  end

  local function check_broken(task)
    concur.wait { task }
    local ok, e = pcall(task.result, task)
    assert.is_false(ok)
    assert.equal("InvalidState", e.kind)
  end

  it("leaves the channel when it is cancelled", function()
    concur.run(function()
      local channel = concur.Channel(1)
      local task = lost_receiver(channel)
      task:cancel()
      check_broken(task)
      channel:send "message"
      assert.equal("message", (channel:try_recv()))
    end)
  end)

  it("gives back what it was sent", function()
    concur.run(function()
      local channel = concur.Channel(1)
      local task = lost_receiver(channel)
      channel:send "message"
      check_broken(task)
      assert.equal("message", (channel:try_recv()))
    end)
  end)

  it("frees its place when the channel is closed", function() -- seen by the leak check
    concur.run(function()
      local channel = concur.Channel(1)
      local task = lost_receiver(channel)
      channel:close()
      check_broken(task)
    end)
  end)
end)
