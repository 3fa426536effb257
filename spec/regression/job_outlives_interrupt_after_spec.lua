-- SPDX-License-Identifier: MIT
-- An interrupt reached Lua code that runs, but not what waits: a task of the job that swallows every
-- Cancelled, or a wait behind a shield, kept a job going for ever although it had `interrupt_after`.

local concur = require "concur"
local errors = require "concur.errors"
local support = require "spec.support"

-- Cancels the job once it says that it has begun; returns how it ended, and whether its pool still
-- works.
local function interrupted(body, after)
  local pool <close> = concur.ThreadPoolExecutor(1)
  local begun = concur.Channel(1)
  local future = pool:options({ interrupt_after = after or 0.02 }):submit(body, begun)
  begun:recv()
  future:cancel()
  local ok, e = pcall(future.result, future, 5 * support.time_scale)
  assert.is_false(ok)
  assert.is_true(errors.is(e, "FutureCancelled"), tostring(e))
  assert.equal(1, pool:submit(math.abs, -1):result())
  return future
end

describe("interrupt_after", function()
  it("ends a job whose task swallows every Cancelled", function()
    interrupted(function(begun)
      local c = require "concur"
      c.spawn(function()
        while true do
          pcall(c.sleep, 1)
        end
      end)
      begun:send(true)
      c.sleep(3600)
    end)
  end)

  it("ends such a task inside concur.run", function()
    interrupted(function(begun)
      local c = require "concur"
      c.run(function()
        c.spawn(function()
          while true do
            pcall(c.sleep, 1)
          end
        end)
        begun:send(true)
        c.sleep(3600)
      end)
    end)
  end)

  it("ends waits behind a shield, at top level and in a task", function()
    interrupted(function(begun)
      local c = require "concur"
      begun:send(true)
      c.shield(c.sleep, 3600)
    end)
    interrupted(function(begun)
      local c = require "concur"
      c.spawn(c.shield, c.sleep, 3600)
      begun:send(true)
      c.sleep(3600)
    end)
  end)

  it("ends a task that becomes busy when it is cancelled", function()
    interrupted(function(begun)
      local c = require "concur"
      c.spawn(function()
        pcall(c.sleep, 3600)
        while true do
        end
      end)
      begun:send(true)
      c.sleep(3600)
    end)
  end)

  it("ends clean-up that is busy, and clean-up that spawns", function()
    interrupted(function(begun)
      local c = require "concur"
      local function on_close(fn)
        return setmetatable({}, { __close = fn })
      end
      c.spawn(function()
        local _ <close> = on_close(function()
          while true do
          end
        end)
        c.shield(c.sleep, 3600)
      end)
      local function again()
        local _ <close> = on_close(function()
          c.spawn(again)
        end)
        c.shield(c.sleep, 3600)
      end
      c.spawn(again)
      begun:send(true)
      c.sleep(3600)
    end)
  end)

  it("leaves clean-up that is soon over alone", function()
    local done = concur.Channel(1)
    interrupted(function(begun)
      local c = require "concur"
      c.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            c.shield(c.sleep, 0.001)
            done:try_send "cleaned up"
          end,
        })
        c.sleep(3600)
      end)
      begun:send(true)
      c.sleep(3600)
    end, 1)
    assert.equal("cleaned up", done:try_recv())
  end)
end)

describe("closing the state", function()
  it("ends such jobs too, and leaves no thread behind", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local begun = concur.Channel(2)
      local pool = concur.ThreadPoolExecutor(2)
      pool:submit(function()
        local c = require "concur"
        c.spawn(function() while true do pcall(c.sleep, 1) end end)
        begun:send(true)
        c.sleep(3600)
      end)
      pool:submit(function()
        begun:send(true)
        require("concur").shield(require("concur").sleep, 3600)
      end)
      begun:recv()
      begun:recv()
    ]]
    assert.equal(0, result.code, support.describe(result))
    assert.equal("", result.stderr)
  end)
end)
