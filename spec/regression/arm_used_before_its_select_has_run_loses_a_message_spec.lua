-- SPDX-License-Identifier: MIT
-- An arm was chosen, and before its select had run another one waited with the same arm: what the first
-- had received was lost, and the channel closed for it. It is in use until its select has run.

local concur = require "concur"

describe("an arm that another select uses before the first has run", function()
  -- Both are woken in the same turn of the loop, the one that is second to wait first.
  local function second_select(arm, choose)
    local turn = concur.Channel(1)
    local first = concur.spawn(concur.select, { arm })
    local second = concur.spawn(function()
      turn:recv()
      return concur.select { arm, concur.after(0.01) }
    end)
    concur.sleep(0.001)
    turn:send(1)
    choose()
    concur.wait { first, second }
    local ok, e = pcall(second.result, second)
    assert.is_false(ok)
    assert.equal("InvalidState", e.kind)
    return first:result()
  end

  it("is refused, and the message received", function()
    concur.run(function()
      local channel = concur.Channel(1)
      local arm = channel:receiving()
      local key, message = second_select(arm, function() channel:send "message" end)
      assert.equal(1, key)
      assert.equal("message", message)
      channel:send "another" -- it can be used again
      assert.equal("another", select(2, concur.select { arm }))
    end)
  end)

  it("is refused, and the message sent", function()
    concur.run(function()
      local channel = concur.Channel(1)
      channel:send "before"
      local arm = channel:sending "message"
      assert.equal(1, second_select(arm, function() assert.equal("before", channel:recv()) end))
      assert.equal("message", channel:recv())
    end)
  end)
end)
