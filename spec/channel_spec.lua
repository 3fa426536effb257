-- SPDX-License-Identifier: MIT
-- Channels: between tasks, between threads, closing, cancelling, select.

local concur = require "concur"
local errors = require "concur.errors"
local support = require "spec.support"

local function raised(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok, "an error was expected")
  return e
end

describe("a channel within one state", function()
  it("hands values over in order", function()
    local channel = concur.Channel(3)
    for i = 1, 3 do
      assert.is_true(channel:send(i))
    end
    assert.equal(3, channel:size())
    assert.same({ 1, 2, 3 }, { channel:recv(), channel:recv(), (channel:recv()) })
  end)

  it("copies, and carries false", function()
    local channel = concur.Channel(2)
    local sent = { 1, { 2 } }
    channel:send(sent)
    channel:send(false)
    local got = channel:recv()
    assert.same(sent, got)
    assert.not_equal(sent, got)
    assert.is_false((channel:recv()))
  end)

  it("makes a sender wait while it is full, in order", function()
    concur.run(function()
      local channel = concur.Channel(1)
      local sent = {}
      for i = 1, 3 do
        concur.spawn(function()
          channel:send(i)
          sent[#sent + 1] = i
        end)
      end
      concur.sleep(0)
      assert.same({ 1 }, sent)
      for i = 1, 3 do
        assert.equal(i, channel:recv())
      end
      concur.sleep(0.01)
      assert.same({ 1, 2, 3 }, sent)
    end)
  end)

  it("with capacity 0 meets: send ends when it was received", function()
    concur.run(function()
      local channel = concur.Channel()
      assert.equal(0, channel:capacity())
      local sent = false
      concur.spawn(function()
        channel:send "x"
        sent = true
      end)
      concur.sleep(0.01)
      assert.is_false(sent)
      assert.equal("x", channel:recv())
      concur.sleep(0.01)
      assert.is_true(sent)
    end)
  end)

  it("has forms that never wait", function()
    concur.run(function()
      local channel = concur.Channel(1)
      local v, e = channel:try_recv()
      assert.is_nil(v)
      assert.is_true(errors.is(e, "WouldBlock"))
      assert.is_true(channel:try_send(1))
      v, e = channel:try_send(2)
      assert.is_nil(v)
      assert.is_true(errors.is(e, "WouldBlock"))
      assert.equal(1, (channel:try_recv()))
      local meeting = concur.Channel(0)
      assert.is_nil((meeting:try_send(1)))
      local receiver = concur.spawn(meeting.recv, meeting)
      concur.sleep(0)
      assert.is_true(meeting:try_send(5))
      assert.equal(5, (receiver:result()))
    end)
  end)

  it("can be drained after close, and refuses to send", function()
    local channel = concur.Channel(2)
    channel:send(1)
    channel:send(2)
    channel:close()
    channel:close()
    assert.is_true(channel:closed())
    assert.is_true(errors.is(raised(channel.send, channel, 3), "Closed"))
    assert.is_true(errors.is(raised(channel.try_send, channel, 3), "Closed"))
    assert.equal(1, (channel:recv()))
    assert.equal(2, (channel:recv()))
    local v, e = channel:recv()
    assert.is_nil(v)
    assert.is_true(errors.is(e, "Closed"))
    v, e = channel:try_recv()
    assert.is_nil(v)
    assert.is_true(errors.is(e, "Closed"))
  end)

  it("wakes everybody who waits when it is closed", function()
    concur.run(function()
      local full, empty = concur.Channel(0), concur.Channel(0)
      local sender = concur.spawn(full.send, full, 1)
      local receiver = concur.spawn(function()
        return select("#", empty:recv()), select(2, empty:recv()).kind
      end)
      concur.sleep(0)
      full:close()
      empty:close()
      assert.is_true(errors.is(raised(sender.result, sender), "Closed"))
      assert.same({ 2, "Closed" }, { receiver:result() })
    end)
  end)

  it("can be iterated", function()
    concur.run(function()
      local channel = concur.Channel(0)
      concur.spawn(function()
        for i = 1, 5 do
          channel:send(i)
        end
        channel:close()
      end)
      local got = {}
      for v in channel:iter() do
        got[#got + 1] = v
      end
      assert.same({ 1, 2, 3, 4, 5 }, got)
    end)
  end)

  it("refuses nil and what cannot cross", function()
    local channel = concur.Channel(1)
    assert.truthy(tostring(raised(channel.send, channel, nil)):find "nil cannot be sent")
    assert.truthy(tostring(raised(channel.sending, channel)):find "nil cannot be sent")
    assert.is_true(errors.is(raised(channel.send, channel, io.stdout), "TransferError"))
    assert.truthy(tostring(raised(concur.Channel, -1)):find "must not be negative")
    assert.truthy(tostring(raised(concur.Channel, 1.5)):find "integer")
    assert.equal(0, channel:size())
  end)

  it("is a deadlock when nobody else has it", function()
    local channel = concur.Channel(0)
    assert.is_true(errors.is(raised(channel.recv, channel), "Deadlock"))
    assert.is_true(errors.is(raised(channel.send, channel, 1), "Deadlock"))
    assert.is_true(errors.is(raised(concur.select, { channel:receiving() }), "Deadlock"))
  end)

  it("with a capacity of math.huge never makes a sender wait", function()
    local channel = concur.Channel(math.huge)
    for i = 1, 1000 do
      assert.is_true(channel:try_send(i))
    end
    assert.equal(1000, channel:size())
    assert.equal(1, (channel:recv()))
  end)

  it("crosses in itself and keeps its identity", function()
    local channel = concur.Channel(1)
    channel:send { reply = channel }
    assert.equal(channel, channel:recv().reply)
  end)
end)

describe("cancelling", function()
  it("a receiver takes nothing", function()
    concur.run(function()
      local channel = concur.Channel(1)
      assert.is_false((concur.move_on_after(0.01, channel.recv, channel)))
      channel:send "kept"
      assert.equal("kept", (channel:try_recv()))
    end)
  end)

  it("a sender sends nothing", function()
    concur.run(function()
      local channel = concur.Channel(0)
      assert.is_false((concur.move_on_after(0.01, channel.send, channel, "gone")))
      assert.is_nil((channel:try_recv()))
    end)
  end)

  it("a receiver whose value is on its way keeps it", function()
    concur.run(function()
      local channel = concur.Channel(0)
      local got
      local receiver = concur.spawn(function()
        got = channel:recv()
      end)
      concur.sleep(0)
      assert.is_true(channel:try_send "mine")
      receiver:cancel()
      pcall(receiver.result, receiver)
      assert.equal("mine", got)
    end)
  end)
end)

describe("killing", function()
  it("a receiver gives the value that was on its way to it to the next one", function()
    concur.run(function()
      local channel = concur.Channel(0)
      local first, second = concur.spawn(channel.recv, channel), concur.spawn(channel.recv, channel)
      concur.sleep(0)
      assert.is_true(channel:try_send "passed on")
      assert.is_true(first:kill())
      assert.equal("passed on", (second:result()))
      assert.equal("cancelled", first:state())
    end)
  end)

  it("a receiver puts the value that was on its way to it back, in its place", function()
    concur.run(function()
      local channel = concur.Channel(1)
      local receiver = concur.spawn(channel.recv, channel)
      concur.sleep(0)
      assert.is_true(channel:try_send(1))
      assert.is_true(channel:try_send(2))
      assert.is_true(receiver:kill())
      assert.same({ 1, 2 }, { channel:try_recv(), (channel:try_recv()) })
    end)
  end)

  it("who still waits takes and sends nothing", function()
    concur.run(function()
      local empty, full = concur.Channel(1), concur.Channel(0)
      local receiver = concur.spawn(empty.recv, empty)
      local sender = concur.spawn(full.send, full, "gone")
      concur.sleep(0)
      assert.is_true(receiver:kill())
      assert.is_true(sender:kill())
      assert.is_true(empty:try_send "kept")
      assert.equal("kept", (empty:try_recv()))
      assert.is_nil((full:try_recv()))
    end)
  end)
end)

describe("a channel between threads", function()
  it("goes both ways", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local to, from = concur.Channel(0), concur.Channel(0)
    local future = pool:submit(function(input, output)
      for v in input:iter() do
        output:send(v * 2)
      end
      output:close()
      return "done"
    end, to, from)
    for i = 1, 20 do
      to:send(i)
      assert.equal(i * 2, from:recv())
    end
    to:close()
    assert.is_nil((from:recv()))
    assert.equal("done", future:result())
  end)

  it("connects many to many, and loses and doubles nothing", function()
    local pool <close> = concur.ThreadPoolExecutor(4)
    local count = support.time_scale > 1 and 300 or 2000
    for _, capacity in ipairs { 0, 1, 16 } do
      local work, results = concur.Channel(capacity), concur.Channel(capacity)
      local jobs = {}
      for p = 1, 2 do
        jobs[#jobs + 1] = pool:submit(function(ch, producer, n)
          for i = 1, n do
            ch:send(producer * 1000000 + i)
          end
        end, work, p, count)
        jobs[#jobs + 1] = pool:submit(function(input, output)
          for v in input:iter() do
            output:send(v)
          end
        end, work, results)
      end
      local seen, n = {}, 0
      while n < 2 * count do
        local v = results:recv()
        assert.is_nil(seen[v])
        seen[v] = true
        n = n + 1
      end
      work:close()
      for _, job in ipairs(jobs) do
        job:result()
      end
      assert.is_nil((results:try_recv()))
    end
  end)

  it("lets the other tasks go on while one waits", function()
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local channel = concur.Channel(0)
      local job = pool:submit(function(ch)
        require("concur").sleep(0.1)
        ch:send "late"
      end, channel)
      local ticks = 0
      local ticker = concur.spawn(function()
        while true do
          concur.sleep(0.01)
          ticks = ticks + 1
        end
      end)
      assert.equal("late", channel:recv())
      assert.is_true(ticks >= 3)
      ticker:cancel()
      job:result()
    end)
  end)

  it("wakes a worker that is cancelled", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local channel = concur.Channel(0)
    local future = pool:submit(function(ch)
      ch:recv()
    end, channel)
    concur.sleep(0.05)
    future:cancel()
    assert.is_true(errors.is(raised(future.result, future), "FutureCancelled"))
    assert.is_nil((channel:try_send(1)))
  end)

  it("notices when the other side is gone for good", function()
    local pool = concur.ThreadPoolExecutor { workers = 1 }
    local channel = concur.Channel(0)
    pool:submit(function(ch)
      ch:send(1)
    end, channel)
    assert.equal(1, channel:recv())
    pool:shutdown()
    assert.is_true(errors.is(raised(channel.recv, channel), "Deadlock"))
  end)

  it("notices in the middle of a wait that the other side is gone for good", function()
    local waits = {
      function(channel) channel:recv() end,
      function(channel) channel:send(1) end,
      function(channel) concur.select { channel:sending(1) } end,
    }
    for _, wait in ipairs(waits) do
      local pool = concur.ThreadPoolExecutor { workers = 1 }
      local channel = concur.Channel(0)
      pool:submit(function(ch) KEPT = ch end, channel):result() -- luacheck: ignore
      local leaver = concur.spawn(function()
        concur.sleep(0.02)
        pool:shutdown()
      end)
      assert.is_true(errors.is(raised(wait, channel), "Deadlock"))
      leaver:result()
    end
  end)

  it("keeps a wait going that began before another state had the channel", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1 }
    concur.run(function()
      local channel, begun = concur.Channel(0), concur.Channel(1)
      local receiver = concur.spawn(channel.recv, channel)
      concur.sleep(0)
      local job = pool:options({ abandon = true }):submit(function(ch, b)
        b:send(true)
        os.execute "sleep 0.1"
        ch:try_send "late"
      end, channel, begun)
      begun:recv()
      job:cancel() -- nobody waits for the job any more: only the channel is left
      assert.equal("late", (receiver:result()))
    end)
  end)

  it("survives its states", function()
    local result = support.run_lua [[
      local concur = require "concur"
      for round = 1, 10 do
        local pool = concur.ThreadPoolExecutor(3)
        local channel = concur.Channel(round % 3)
        for i = 1, 3 do
          pool:submit(function(ch) for v in ch:iter() do ch:send(v + 1) end end, channel)
        end
        concur.spawn(function() for i = 1, 100 do channel:send(i) end end)
        concur.sleep(0.005)
        concur.get_event_loop():close()
      end
    ]]
    assert.equal(0, result.code, support.describe(result))
  end)
end)

describe("select", function()
  it("receives from a channel that has something", function()
    concur.run(function()
      local a, b = concur.Channel(1), concur.Channel(1)
      b:send "x"
      assert.same({ "b", "x" }, { concur.select { a = a:receiving(), b = b:receiving() } })
      assert.equal(0, b:size())
    end)
  end)

  it("waits for whichever comes first, and takes exactly one", function()
    concur.run(function()
      local a, b = concur.Channel(1), concur.Channel(1)
      concur.spawn(function()
        concur.sleep(0.01)
        b:send(1)
        a:send(2)
      end)
      local got = {}
      for _ = 1, 2 do
        local key, value = concur.select { a = a:receiving(), b = b:receiving() }
        got[key] = value
      end
      assert.same({ a = 2, b = 1 }, got)
      assert.equal("after", (concur.select { a = a:receiving(), after = concur.after(0.01) }))
    end)
  end)

  it("sends when there is room", function()
    concur.run(function()
      local a, b = concur.Channel(0), concur.Channel(1)
      assert.equal("b", (concur.select { a = a:sending(1), b = b:sending(2) }))
      assert.equal(2, (b:recv()))
      local receiver = concur.spawn(a.recv, a)
      concur.sleep(0)
      assert.equal("a", (concur.select { a = a:sending(1) }))
      assert.equal(1, (receiver:result()))
    end)
  end)

  it("sends when room comes later", function()
    concur.run(function()
      local channel = concur.Channel(1)
      channel:send(1)
      concur.spawn(function()
        concur.sleep(0.01)
        channel:recv()
      end)
      local key = concur.select { put = channel:sending(2), late = concur.after(5) }
      assert.equal("put", key)
      assert.equal(2, (channel:recv()))
    end)
  end)

  it("meets another select on a channel of capacity 0", function()
    concur.run(function()
      local channel = concur.Channel(0)
      local receiver = concur.spawn(function()
        return concur.select { got = channel:receiving() }
      end)
      assert.equal("put", (concur.select { put = channel:sending "x" }))
      assert.same({ "got", "x" }, { receiver:result() })
    end)
  end)

  it("sees a channel close", function()
    concur.run(function()
      local channel = concur.Channel(0)
      concur.spawn(function()
        concur.sleep(0.01)
        channel:close()
      end)
      local key, value, err = concur.select { got = channel:receiving() }
      assert.same({ "got", nil, "Closed" }, { key, value, err.kind })
      assert.is_true(errors.is(raised(concur.select, { channel:sending(1) }), "Closed"))
    end)
  end)

  it("gives nil and Closed from a channel that is closed and drained", function()
    local channel = concur.Channel(1)
    channel:send "last"
    channel:close()
    assert.same({ "got", "last" }, { concur.select { got = channel:receiving() } })
    local key, value, err = concur.select { got = channel:receiving() }
    assert.same({ "got", nil, "Closed" }, { key, value, err.kind })
  end)

  it("sees what happens to a channel while the values of its other arms are encoded", function()
    concur.run(function()
      for what, results in pairs {
        send = { 1, "in between" },
        close = { 1, nil },
      } do
        local channel, full = concur.Channel(1), concur.Channel(0)
        local value = setmetatable({}, {
          __transfer = function()
            if what == "send" then
              channel:try_send "in between"
            else
              channel:close()
            end
            return tostring, 5
          end,
        })
        local key, got = concur.select { channel:receiving(), full:sending(value) }
        assert.same(results, { key, got })
        assert.is_nil((full:try_recv()))
      end
    end)
  end)

  it("killed, takes and sends nothing", function()
    concur.run(function()
      local a, b = concur.Channel(1), concur.Channel(0)
      local task = concur.spawn(concur.select, { a:receiving(), b:sending "never" })
      concur.sleep(0)
      assert.is_true(a:try_send "kept") -- on its way
      assert.is_true(task:kill())
      assert.equal("kept", (a:try_recv()))
      assert.is_nil((b:try_recv()))
    end)
  end)

  it("cancelled, takes and sends nothing", function()
    concur.run(function()
      local a, b = concur.Channel(1), concur.Channel(0)
      assert.is_false((concur.move_on_after(0.01, concur.select, {
        a:receiving(),
        b:sending "never",
      })))
      a:send(1)
      assert.equal(1, (a:try_recv()))
      assert.is_nil((b:try_recv()))
    end)
  end)

  it("between threads loses and doubles nothing", function()
    support.seed()
    local pool <close> = concur.ThreadPoolExecutor(3)
    local count = support.time_scale > 1 and 200 or 1000
    concur.run(function()
      for capacity = 0, 2 do
        local a, b, back = concur.Channel(capacity), concur.Channel(capacity), concur.Channel(4)
        local jobs = {}
        for _, channel in ipairs { a, b } do
          jobs[#jobs + 1] = pool:submit(function(ch, n)
            local c = require "concur"
            local i = 1
            while i <= n do
              if c.select { sent = ch:sending(i), late = c.after(0.0005) } == "sent" then
                i = i + 1
              end
            end
          end, channel, count)
        end
        jobs[3] = pool:submit(function(x, y, out, n)
          local c = require "concur"
          local got = 0
          while got < n do
            local key, v = c.select { x = x:receiving(), y = y:receiving(), late = c.after(0.0003) }
            if key ~= "late" then
              out:send { key, v }
              got = got + 1
            end
          end
        end, a, b, back, 2 * count)
        local next_of = { x = 1, y = 1 }
        for _ = 1, 2 * count do
          local got = back:recv()
          assert.equal(next_of[got[1]], got[2])
          next_of[got[1]] = got[2] + 1
        end
        for _, job in ipairs(jobs) do
          job:result()
        end
      end
    end)
  end)
end)
