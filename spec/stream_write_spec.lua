-- SPDX-License-Identifier: MIT
-- Writing to streams and closing them: room first and then everything, what is gathered, half-close,
-- errors of an earlier write, and a close that sends what was accepted.

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local streams = require "spec.support.streams"
local support = require "spec.support"
local testing = require "concur.testing"

local net = concur.net
local pair, tcp_pair = streams.pair, streams.tcp_pair
local plain_it = it
local it = testing.wrap_it(it, { clock = false })

-- Fills the stream and the system's buffers until a write has to wait; returns how many bytes that
-- took, and the task that waits with the last chunk.
local function fill(stream, chunk)
  local accepted = 0
  while true do
    local waiting = concur.spawn(stream.write, stream, chunk)
    repeat
      concur.sleep(0.001)
      if waiting:awaiting() == "Stream:write" then
        return accepted, waiting
      end
    until waiting:done()
    accepted = accepted + #chunk
  end
end

local function read_all_slowly(stream, size)
  local parts = {}
  while true do
    local part = stream:read_some(size)
    if not part then
      return table.concat(parts)
    end
    parts[#parts + 1] = part
    concur.checkpoint()
  end
end

describe("stream:write", function()
  it("writes strings and numbers, and returns the stream", function()
    local one, other, _ <close> = pair()
    assert.equal(one, one:write("a", 1, 2.5, "", "z"))
    assert.equal(one, one:write())
    one:write("b"):write("c"):shutdown()
    assert.equal("a12.5zbc", other:read "a")
  end)

  it("refuses other values before anything is written", function()
    local one, other, _ <close> = pair()
    expect.message("string expected, got nil", one.write, one, "a", nil, "b")
    expect.message("string expected, got table", one.write, one, "a", {})
    one:write "only"
    one:shutdown()
    assert.equal("only", other:read "a")
  end)

  it("takes many arguments, long strings, and every byte value", function()
    local one, other, _ <close> = pair()
    local all, arguments = {}, {}
    for i = 0, 255 do
      all[i + 1] = string.char(i)
    end
    for i = 1, 200 do
      arguments[i] = i % 3 == 0 and table.concat(all):rep(100) or tostring(i)
    end
    concur.spawn(function()
      one:write(table.unpack(arguments))
      one:shutdown()
    end)
    assert.is_true(table.concat(arguments) == other:read "a")
  end)

  it("keeps the order of direct, gathered and waiting bytes", function()
    support.seed()
    for _ = 1, 20 do
      local one, other, _ <close> = pair()
      local expected = {}
      local reader = concur.spawn(read_all_slowly, other, math.random(1, 20000))
      for i = 1, 200 do
        local piece = tostring(i) .. ("x"):rep(math.random(4) == 1 and math.random(0, 40000)
          or math.random(0, 30)) .. "\n"
        expected[i] = piece
        one:write(piece)
        if math.random(5) == 1 then
          concur.sleep(0)
        end
        if math.random(20) == 1 then
          one:setvbuf(math.random(2) == 1 and "no" or "full")
        end
      end
      one:shutdown()
      assert.is_true(table.concat(expected) == reader:result())
    end
  end)

  it("gathers the small writes of one turn, also at top level", function()
    local one, other, _ <close> = pair()
    one:write "first "
    assert.equal("first ", other:read_some())
    one:write("second ") -- in the same turn as the first: it waits for the turn to end
    one:write "third"
    assert.equal("second third", other:read_some())
    one:setvbuf "no"
    one:write "a"
    one:write "b"
    assert.equal("ab", other:read_some())
  end)

  it("goes out at once if it is the first of a turn, or always after setvbuf 'no'", function()
    local listener <close> = assert(net.listen("127.0.0.1", 0))
    local probe = assert(require("socket").connect(listener:address()))
    local one <close> = assert(listener:accept())
    probe:settimeout(0)
    local function arrived() -- without a turn of the loop
      return (select(3, probe:receive "*a"))
    end
    one:write "a"
    one:write "b"
    assert.equal("a", arrived())
    assert.is_true(one:setvbuf "no") -- sends what waits
    assert.equal("b", arrived())
    one:write "c"
    one:write "d"
    assert.equal("cd", arrived())
    for _, mode in ipairs { "full", "line" } do
      assert.is_true(one:setvbuf(mode, 100))
      concur.sleep(0.001) -- another turn
      one:write "e\n"
      one:write "f\n"
      assert.equal("e\n", arrived())
      one:flush()
      assert.equal("f\n", arrived())
    end
    probe:close()
    expect.message("bad argument #1 to 'setvbuf' (invalid option 'none')", function()
      one:setvbuf "none"
    end)
  end)

  it("waits for room before it takes anything, and then takes all", function()
    local one, other, _ <close> = pair()
    local chunk = ("x"):rep(50000)
    local accepted, waiting = fill(one, chunk)
    local big = concur.spawn(one.write, one, ("y"):rep(3000000))
    local reader = concur.spawn(read_all_slowly, other, 65536)
    assert.equal(one, waiting:result())
    assert.equal(one, big:result())
    one:shutdown()
    local text = reader:result()
    assert.equal(accepted + 50000 + 3000000, #text)
    assert.is_truthy(text:find "^x+y+$")
  end)

  it("that is cancelled while it waits has written nothing", function()
    local one, other, _ <close> = pair()
    local accepted, waiting = fill(one, ("x"):rep(50000))
    local second = concur.spawn(one.write, one, "second")
    concur.checkpoint()
    waiting:cancel()
    local in_time = concur.move_on_after(0.01, one.write, one, "third")
    assert.is_false(in_time)
    local reader = concur.spawn(other.read, other, "a")
    assert.equal(one, second:result())
    one:shutdown()
    assert.equal(("x"):rep(accepted) .. "second", reader:result())
    assert.is_true(waiting:cancelled())
  end)

  it("does not mix the bytes of several tasks", function()
    local one, other, _ <close> = pair()
    concur.spawn(function()
      concur.task_group(function(group)
        for i = 1, 20 do
          group:spawn(function()
            for _ = 1, 20 do
              one:write("<", ("%d"):format(i):rep(3000), ">\n")
            end
          end)
        end
      end)
      one:shutdown()
    end)
    local count = 0
    for line in other:lines() do
      local digits = line:match "^<(%d+)>$"
      assert.is_truthy(digits)
      assert.equal(digits:sub(1, #digits // 3000):rep(3000), digits)
      count = count + 1
    end
    assert.equal(400, count)
  end)

  it("tells EPIPE, and again in every later call", function()
    local one, other, _ <close> = pair()
    other:close()
    local result, err
    for _ = 1, 3 do
      result, err = one:write "x"
    end
    assert.is_nil(result)
    assert.equal("EPIPE", err.code)
    assert.equal("EPIPE", select(2, one:flush()).code)
    assert.equal("EPIPE", select(2, one:shutdown()).code)
    assert.is_true(one:close()) -- nothing was lost that has not been told
  end)

  it("names the address when the other side of TCP is gone", function()
    local one, other, _ <close> = tcp_pair()
    local host, port = one:peer_address()
    one:write "never read"
    concur.sleep(0.01)
    other:close() -- a reset
    concur.sleep(0.01)
    local ok, err
    for _ = 1, 3 do
      ok, err = one:write "x"
      concur.checkpoint()
    end
    assert.is_nil(ok)
    assert.is_truthy(err.code == "EPIPE" or err.code == "ECONNRESET", err.code)
    assert.equal(host .. ":" .. port, err.address)
    assert.is_truthy(err.message:find(err.address, 1, true), err.message)
  end)

  it("tells writers that wait when the other side goes away", function()
    local one, other, _ <close> = pair()
    local _, waiting = fill(one, ("x"):rep(50000))
    local flushing = concur.spawn(one.flush, one)
    concur.checkpoint()
    other:close()
    local result, err = waiting:result()
    assert.is_nil(result)
    assert.is_truthy(err.code == "EPIPE" or err.code == "ECONNRESET", err.code)
    assert.is_nil((flushing:result()))
  end)

  it("ends with Closed when another task closes the stream", function()
    local one, other, _ <close> = pair()
    local _, waiting = fill(one, ("x"):rep(50000))
    local closing = concur.spawn(one.close, one, 0.01)
    local result, err = waiting:result()
    assert.is_nil(result)
    assert.equal("Closed", err.kind)
    result, err = closing:result()
    assert.is_nil(result) -- nobody read it within the grace time
    assert.equal("ETIMEDOUT", err.code)
    expect.error("Closed", one.write, one, "x")
    assert.is_false(other:closed())
  end)
end)

describe("stream:flush", function()
  it("waits until all is sent; cancelled, it is sent all the same", function()
    local one, other, _ <close> = pair()
    one:water_marks { write_high = 10 * 1024 * 1024 }
    one:write(("x"):rep(2000000))
    assert.is_false((concur.move_on_after(0.005, one.flush, one)))
    local flushing = concur.spawn(one.flush, one)
    local reader = concur.spawn(other.read, other, 2000000)
    assert.equal(one, flushing:result())
    assert.equal(2000000, #reader:result())
  end)
end)

describe("stream:shutdown", function()
  it("ends the one direction after its bytes, and leaves the other", function()
    local one, other, _ <close> = pair()
    one:write(("x"):rep(1000000))
    local shutting = concur.spawn(one.shutdown, one)
    assert.equal(1000000, #other:read "a")
    assert.is_true(shutting:result())
    other:write "still here\n"
    assert.equal("still here", one:read())
    assert.is_true(one:shutdown())
    expect.error("Closed", one.write, one, "x")
  end)

  it("ends writers that wait with Closed", function()
    local one, other, _ <close> = pair()
    local accepted, waiting = fill(one, ("x"):rep(50000))
    local shutting = concur.spawn(one.shutdown, one)
    local _, err = waiting:result()
    assert.equal("Closed", err.kind)
    assert.equal(accepted, #other:read "a")
    assert.is_true(shutting:result())
  end)
end)

describe("stream:water_marks", function()
  it("refuses what it does not know", function()
    local one, other, _ <close> = pair()
    expect.message("unknown option 'high'", one.water_marks, one, { high = 1 })
    expect.message("must be a count of bytes", one.water_marks, one, { read_low = -1 })
    expect.message("must be a count of bytes", one.water_marks, one, { write_low = 1.5 })
    expect.message("a high mark must be at least 1", one.water_marks, one, { write_high = 0 })
    expect.message("'read_low' is above 'read_high'", one.water_marks, one,
      { read_high = 5, read_low = 6 })
    expect.message("'write_low' is above 'write_high'", one.water_marks, one,
      { write_low = 65537 }) -- above the one in force
    assert.equal(other, other:water_marks { read_high = 1, write_high = 1 }) -- the low ones follow
    assert.equal(other, other:water_marks { write_high = 7, write_low = 7 })
  end)
end)

describe("a write that waits for room", function()
  -- The second half of what was written is on its way when the first has gone.
  local function waits_with(low)
    local one, other, _ <close> = pair()
    one:water_marks { write_high = 1500000, write_low = low }
    one:write(("x"):rep(1000000))
    one:write(("x"):rep(1000000))
    local waiting = concur.spawn(one.write, one, "y")
    concur.checkpoint()
    assert.is_false(waiting:done())
    assert.equal(1000000, #other:read(1000000))
    concur.sleep(0.02)
    local early = waiting:done()
    assert.equal(("x"):rep(1000000) .. "y", other:read(1000001))
    assert.equal(one, waiting:result())
    return early
  end

  it("goes on at the low-water mark, and not before", function()
    assert.is_true(waits_with(1200000))
    assert.is_false(waits_with(0))
  end)
end)

describe("stream:close", function()
  it("is idempotent, shows in tostring, and makes misuse an error", function()
    local one, other, _ <close> = pair()
    assert.is_truthy(tostring(one):find("pipe unnamed open", 1, true), tostring(one))
    assert.is_false(one:closed())
    assert.is_true(math.type(one:fd()) == "integer")
    assert.is_true(one:close())
    assert.is_true(one:close())
    assert.is_truthy(tostring(one):find("closed", 1, true))
    for _, name in ipairs { "read", "write", "flush", "shutdown", "lines", "fd", "read_some",
      "limit", "peer_address" } do
      expect.error("Closed", one[name], one)
    end
    expect.message("concur.Stream expected", one.close, io.stdout)
    assert.is_nil(other:read())
  end)

  it("sends what was written first, and tells when it could not", function()
    local one, other = net.socketpair()
    one:water_marks { write_high = 10 * 1024 * 1024 }
    one:write(("x"):rep(1500000))
    local closing = concur.spawn(one.close, one)
    assert.equal(1500000, #other:read "a")
    assert.is_true(closing:result())
    other:close()

    one, other = net.socketpair()
    one:write(("x"):rep(1500000))
    closing = concur.spawn(one.close, one)
    concur.sleep(0.001)
    other:close()
    local result, err = closing:result()
    assert.is_nil(result)
    assert.is_truthy(err.code == "EPIPE" or err.code == "ECONNRESET", err.code)
  end)

  plain_it("takes five seconds at most, or what is asked for", function()
    for grace, expected in pairs { [false] = 5, [2.5] = 2.5, [-1] = 0 } do
      testing.run(function() -- in virtual time
        local one, other, _ <close> = pair()
        one:write(("x"):rep(1500000))
        local start = concur.now()
        local ok, err = one:close(grace or nil)
        assert.is_nil(ok)
        assert.equal("ETIMEDOUT", err.code)
        assert.near(expected, concur.now() - start, 1e-6)
        assert.is_false(other:closed())
      end)
    end
    local one, _, _ <close> = pair()
    expect.message("bad argument #1 to 'close' (duration must not be NaN)", function()
      one:close(0 / 0)
    end)
  end)

  it("closes and sends in a cancelled scope too", function()
    local one, other = net.socketpair()
    local reader
    concur.cancel_scope(function(scope)
      local stream <close> = one
      stream:write(("x"):rep(1500000))
      reader = concur.spawn(other.read, other, "a")
      scope:cancel()
    end)
    assert.is_true(one:closed())
    assert.equal(1500000, #reader:result())
    other:close()
  end)

  it("happens to a stream that nobody refers to, after its bytes", function()
    local other
    do
      local one
      one, other = net.socketpair()
      one:write(("x"):rep(1000000))
    end
    collectgarbage()
    collectgarbage()
    assert.equal(1000000, #other:read "a")
    other:close()
  end)

  it("works in places that cannot wait, and sends the rest later", function()
    local one, other = net.socketpair()
    one:write(("x"):rep(1000000))
    local list = { 2, 1 }
    table.sort(list, function(a, b)
      one:close()
      return a < b
    end)
    assert.is_true(one:closed())
    assert.equal(1000000, #other:read "a")
    other:close()
  end)

  it("of the Lua state with open streams, readers and unsent bytes is clean", function()
    for _, ending in ipairs { "", "os.exit(0, true)" } do
      support.check_lua([[
        local concur = require "concur"
        local net = concur.net
        local keep = {}
        concur.run(function()
          for i = 1, 3 do
            local one, other = net.socketpair()
            keep[#keep + 1] = { one, other }
            one:write(("x"):rep(1000000))
            concur.spawn(one.read, one)
            concur.spawn(one.flush, one)
          end
          local listener = net.listen("127.0.0.1", 0)
          concur.spawn(listener.accept, listener)
          keep[#keep + 1] = listener
          concur.checkpoint()
        ]] .. ending .. [[
        end)
        keep[1][2]:write "top level"
      ]])
    end
  end)
end)

describe("a write cancelled at every step", function()
  plain_it("writes all or nothing", function()
    everywhere(function(case)
      local one, other, _ <close> = pair()
      one:water_marks { write_high = 1 }
      one:write(("x"):rep(300000))
      local victim = case:victim(function()
        one:write "mine"
        return true
      end)
      local reader = concur.spawn(function()
        concur.checkpoint()
        return read_all_slowly(other, 300000)
      end)
      local outcome = case:join(victim)
      one:shutdown()
      local text = reader:result()
      assert.equal(300000 + (outcome == "done" and 4 or 0), #text)
    end, { also = { "kill" } })
  end)
end)

describe("cancelled at every step,", function()
  -- What was accepted is sent whatever happens to the task that waits for it.
  local function sends_all(name, ...)
    local arguments = table.pack(...)
    plain_it(name .. " sends what was accepted all the same", function()
      everywhere(function(case)
        local one, other, _ <close> = pair()
        one:water_marks { write_high = 1000000 }
        one:write(("x"):rep(500000))
        local victim = case:victim(function()
          one[name](one, table.unpack(arguments))
        end)
        local reader = concur.spawn(function()
          concur.checkpoint()
          return #other:read(500000)
        end)
        local outcome, err = case:join(victim)
        assert.is_truthy(outcome == "done" or outcome == "cancelled", tostring(err))
        assert.equal(500000, reader:result())
      end, { also = { "kill" } })
    end)
  end

  sends_all "flush"
  sends_all "shutdown"
  sends_all("close", math.huge)
end)
