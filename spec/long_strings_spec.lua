-- SPDX-License-Identifier: MIT
-- Long strings on their way to a worker and back: they are not copied into messages, and so their
-- owner must keep them, whatever happens meanwhile.

local concur = require "concur"
local errors = require "concur.errors"
local support = require "spec.support"

local KIB = 1024

local words = {}
for i = 1, 8191 do
  words[i] = ("%08x"):format((i * 2654435761) & 0xffffffff)
end
local block = table.concat(words)

-- A string of this size; those of different seeds differ everywhere.
local function text_of(size, seed)
  return block:rep(size // #block + 2):sub(8 * seed, 8 * seed + size - 1)
end

local function echo(...)
  return ...
end

-- From where on strings are lent (32 KiB) and pinned (64 KiB), and about there.
local SIZES = { 40, 41, 255, 256, 16 * KIB, 32 * KIB - 1, 32 * KIB, 32 * KIB + 1, 64 * KIB - 64,
  64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 200000, 1 << 20, 5 << 20 }

describe("a long string", function()
  it("arrives unchanged, whatever its length, there and back", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    for seed, size in ipairs(SIZES) do
      local text = text_of(size, seed)
      for _ = 1, 3 do
        assert.is_true(pool:submit(echo, text):result() == text, "of " .. size .. " bytes")
      end
      local length = pool:submit(string.len, text):result()
      assert.equal(size, length)
    end
  end)

  it("crosses in tables, as a key, as an upvalue, and twice in one message", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local a, b = text_of(100000, 1), text_of(70000, 2)
    local function job(t, again)
      return t.list[2] == again, t[again], b, { a = a, list = { again, again } }
    end
    local same, key, upvalue, result = pool:submit(job, { list = { 1, a }, [a] = b }, a):result()
    assert.is_true(same)
    assert.is_true(key == b and upvalue == b)
    assert.is_true(result.a == a and result.list[1] == a and result.list[2] == a)
  end)

  it("is kept while it is on its way, though nobody else holds it", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local futures = {}
    for i = 1, 40 do
      futures[i] = pool:submit(echo, text_of(50000 + i, i))
    end
    collectgarbage()
    collectgarbage()
    for i, future in ipairs(futures) do
      assert.is_true(future:result() == text_of(50000 + i, i))
      collectgarbage()
    end
  end)

  it("is let go once the job is over", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local before = collectgarbage "count"
    local future = pool:submit(string.len, ("x"):rep(8 << 20))
    assert.equal(8 << 20, future:result())
    collectgarbage()
    collectgarbage()
    assert.is_true(collectgarbage "count" < before + 4 * KIB, "the string is still there")
    assert.equal("done", future:state())
  end)

  it("outlives the state of the worker that made it", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1, max_jobs = 1 }
    local function make(size, seed)
      return { (string.char(65 + seed)):rep(size) }
    end
    local futures = {}
    for i = 1, 10 do
      futures[i] = pool:submit(make, 100000 * i, i)
    end
    for i, future in ipairs(futures) do
      assert.is_true(future:result()[1] == string.char(65 + i):rep(100000 * i))
    end
  end)

  it("waits in a channel for longer than the worker's state lives", function()
    local channel = concur.Channel(4)
    local pool = concur.ThreadPoolExecutor(1)
    local function send(ch, size)
      for i = 1, 4 do
        ch:send { (string.char(96 + i)):rep(size), i }
      end
    end
    pool:submit(send, channel, 200000):result()
    pool:shutdown()
    for i = 1, 3 do
      local value = channel:recv()
      assert.is_true(value[1] == string.char(96 + i):rep(200000) and value[2] == i)
    end
    channel = nil -- luacheck: ignore
    collectgarbage()
  end)

  it("may be what a job is tried again with", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local text = text_of(1 << 20, 3)
    local again = pool:options { retry = 2 }
    local function job(s)
      tries = (tries or 0) + 1 -- luacheck: ignore
      if tries % 3 ~= 0 then -- luacheck: ignore
        error "not yet"
      end
      return #s, s
    end
    local size, same = again:submit(job, text):result()
    assert.equal(1 << 20, size)
    assert.is_true(same == text)
  end)

  it("may belong to jobs that are cancelled, queued or running", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local impatient = pool:options { abandon = true }
    local function slow(s)
      require("concur").sleep(0.02)
      return s
    end
    for round = 1, 10 do
      local running = impatient:submit(slow, text_of(300000, round))
      local queued = pool:submit(echo, text_of(300000, round))
      concur.sleep(0.001 * round)
      running:cancel()
      queued:cancel()
      running, queued = nil, nil -- luacheck: ignore
      collectgarbage()
    end
    assert.is_true(pool:submit(echo, text_of(300000, 0)):result() == text_of(300000, 0))
  end)

  it("counts against the limit for one message", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local before = concur.transfer_limit(1 << 20)
    local text = ("x"):rep(600 << 10)
    local ok, e = pcall(pool.submit, pool, echo, text, text .. "y")
    concur.transfer_limit(before)
    assert.is_false(ok)
    assert.is_true(errors.is(e, "TransferError"))
    assert.is_truthy(tostring(e):find("transfer_limit", 1, true))
  end)

  it("goes through a worker to a worker of its own", function()
    local text = text_of(500000, 5)
    local function outer(s)
      local nested <close> = require("concur").ThreadPoolExecutor(1)
      return nested
        :submit(function(t)
          return t .. "!"
        end, s)
        :result()
    end
    local pool <close> = concur.ThreadPoolExecutor(1)
    assert.is_true(pool:submit(outer, text):result() == text .. "!")
  end)

  it("does not keep a closing state from ending, nor is it read after its end", function()
    -- The loop closes while workers are at every stage of reading what was lent to them.
    local stdout = support.check_lua [[
      local concur = require "concur"
      for round = 1, 12 do
        local pool = concur.ThreadPoolExecutor(2)
        for i = 1, 6 do
          pool:submit(function(s) return #s end, string.char(64 + i):rep(800000 + round))
        end
        if round % 3 ~= 0 then concur.sleep(round % 7 * 0.0005) end
        concur.get_event_loop():close()
        collectgarbage()
      end
      print "ended"
      local pool = concur.ThreadPoolExecutor(2)
      for i = 1, 6 do
        pool:submit(function(s) return #s end, string.char(64 + i):rep(2000000))
      end
      os.exit(0, true)]]
    assert.equal("ended\n", stdout)
  end)
end)
