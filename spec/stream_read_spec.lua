-- SPDX-License-Identifier: MIT
-- Reading from streams: Lua's formats byte for byte, limits that lose nothing, one reader, and
-- cancellation that consumes nothing.

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local faults = require "spec.support.faults"
local streams = require "spec.support.streams"
local support = require "spec.support"
local testing = require "concur.testing"

local net = concur.net
local pair, tcp_pair = streams.pair, streams.tcp_pair
local plain_it = it
local it = testing.wrap_it(it, { clock = false })

-- A stream from which exactly these bytes, and then the end, can be read.
local function stream_of(bytes)
  local one, other = assert(net.socketpair())
  concur.spawn(function()
    assert(one:write(bytes))
    assert(one:close())
  end)
  return other
end

-- The results of read(...) with what they tell, for comparing.
local function pack_result(...)
  local list = table.pack(...)
  for i = 1, list.n do
    local value = list[i]
    list[i] = math.type(value) and math.type(value) .. " " .. tostring(value) or tostring(value)
  end
  return list
end

describe("stream:read", function()
  it("reads lines with and without their ends, numbers, counts and the rest", function()
    local stream <close> = stream_of "one\ntwo\n 3.5 0x10\nfour\n\nrest\nend"
    assert.equal("one", stream:read "l")
    assert.equal("two\n", stream:read "L")
    local a, b = stream:read("n", "n")
    assert.equal(3.5, a)
    assert.equal(16, b)
    assert.equal("\n", stream:read(1))
    assert.equal("four", stream:read())
    assert.equal("", stream:read "l")
    assert.equal("re", stream:read(2))
    assert.equal("st\nend", stream:read "a")
    assert.is_nil(stream:read "l")
    assert.is_nil(stream:read(1))
    assert.is_nil(stream:read(0))
    assert.equal("", stream:read "a")
    assert.is_nil((stream:read "n"))
  end)

  it("gives one result for each format, up to the first that fails", function()
    local stream <close> = stream_of "12 word\nlast"
    assert.same({ "integer 12", " word", "la", n = 3 }, pack_result(stream:read("n", "l", 2)))
    assert.same({ "nil", n = 1 }, pack_result(stream:read("n", "l")))
    assert.same({ "st", "nil", n = 2 }, pack_result(stream:read("l", "l", "l")))
  end)

  it("takes the old names of formats and any iterator of lines", function()
    local stream <close> = stream_of "a\nb\n1 2\n3 4\n"
    assert.equal("a", stream:read "*l")
    assert.equal("b\n", stream:read "*L")
    local sums = {}
    for x, y in stream:lines("n", "n") do
      sums[#sums + 1] = x + y
    end
    assert.same({ 3, 7 }, sums)
  end)

  it("refuses wrong formats before it waits", function()
    local one, other, _ <close> = pair()
    expect.message("bad argument #1 to 'read' (invalid format)", function()
      one:read "x"
    end)
    expect.message("bad argument #2 to 'read' (invalid format)", function()
      one:read("l", "")
    end)
    expect.message("bad argument #1 to 'read' (format expected, got table)", function()
      one:read {}
    end)
    expect.message("format expected, got nil", one.lines, one, nil)
    expect.message("count must not be negative", one.read, one, -1)
    expect.message("must be at least 1", one.read_some, one, 0)
    expect.message("the separator is empty", one.read_until, one, "")
    assert(other:closed() == false)
  end)

  it("tells whether there is more with a count of 0", function()
    local one <close>, other = net.socketpair()
    local probe = concur.spawn(one.read, one, 0)
    concur.checkpoint()
    assert.is_false(probe:done())
    other:write "x"
    assert.equal("", probe:result())
    other:close()
    assert.equal("x", one:read "a")
    assert.is_nil(one:read(0))
  end)

  it("reads what is there with read_some", function()
    local one, other, _ <close> = pair()
    other:write "hello"
    assert.equal("hel", one:read_some(3))
    assert.equal("lo", one:read_some(100))
    local reader = concur.spawn(one.read_some, one)
    concur.checkpoint()
    other:write "later"
    assert.equal("later", reader:result())
    other:close()
    assert.is_nil((one:read_some()))
  end)

  it("reads up to a separator of several bytes, wherever it is cut", function()
    local one <close>, other = net.socketpair()
    local reader = concur.spawn(function()
      return one:read_until "\r\n\r\n", one:read_until "\r\n\r\n"
    end)
    for piece in ("head\r\n\rx\r|\n\r\n|next\r|\n|\r|\n|rest"):gmatch "[^|]+" do
      other:write(piece):flush()
      concur.sleep(0.001)
    end
    local first, second = reader:result()
    assert.equal("head\r\n\rx\r\n\r\n", first)
    assert.equal("next\r\n\r\n", second)
    other:close()
    local rest, err = one:read_until "\r\n\r\n"
    assert.is_nil(rest)
    assert.is_true(concur.errors.is(err, "IncompleteRead"))
    assert.equal("rest", err.partial)
    assert.same({ "nil", n = 1 }, pack_result(one:read_until "\r\n\r\n"))
  end)

  it("reads into a SharedBuffer", function()
    local one <close>, other = net.socketpair()
    local buffer = concur.SharedBuffer(8)
    other:write "abcdefgh"
    assert.equal(3, one:read_into(buffer, 2, 3))
    assert.equal("\0abc\0\0\0\0", buffer:tostring())
    local count = one:read_into(buffer)
    assert.equal("defgh", buffer:tostring(1, count))
    local waiting = concur.spawn(one.read_into, one, buffer, 8)
    concur.checkpoint()
    other:write "xyz"
    assert.equal(1, waiting:result())
    other:close()
    assert.equal("yz", one:read "a")
    assert.is_nil((one:read_into(buffer)))
    expect.message("position outside of the buffer", one.read_into, one, buffer, 9)
  end)
end)

-- ---------------------------------------------------------------------------------------------
-- The same as io, byte for byte
-- ---------------------------------------------------------------------------------------------

local PIECES = {
  "\n", "\n\n", " ", "word", "-", "+", ".", "0x", "0X1.8p3", "1e", "e+5", "12", "-7", "3.25", "1e9",
  "0x7fffffffffffffff", "9223372036854775808", "nan", "\t\n ", "\0", "\r\n", "a\0b", "\255",
  ("9"):rep(150), ("9"):rep(201), ("x"):rep(3000), ".5", "5.", "0x.8", "1e+", "--1", "1..2",
}

local function random_bytes()
  local list = {}
  for i = 1, math.random(0, 30) do
    list[i] = PIECES[math.random(#PIECES)]
  end
  return table.concat(list)
end

local function random_formats()
  local choices = { "l", "L", "n", "n", "l", math.random(0, 20), math.random(0, 5000) }
  if math.random(12) == 1 then
    choices[1] = "a"
  end
  local list = {}
  for i = 1, math.random(1, 3) do
    list[i] = choices[math.random(#choices)]
  end
  return list
end

local function write_in_pieces(stream, bytes)
  local at = 1
  while at <= #bytes do
    local size = math.random(3) == 1 and math.random(1, 5000) or math.random(1, 12)
    assert(stream:write(bytes:sub(at, at + size - 1)))
    at = at + size
    if math.random(4) == 1 then
      concur.checkpoint()
    elseif math.random(8) == 1 then
      concur.sleep(0)
    end
  end
  stream:close()
end

-- Reads both to the end, by the same random formats.
local function compare(file, size, stream)
  for step = 1, 60 do
    local formats = random_formats()
    local expected = pack_result(file:read(table.unpack(formats)))
    local got = pack_result(stream:read(table.unpack(formats)))
    if table.concat(expected, "|") ~= table.concat(got, "|") then
      assert.same({ step, formats, expected }, { step, formats, got })
    end
    if expected[expected.n] == "nil" and file:seek() == size then
      break
    end
  end
  assert.equal(file:read "a", stream:read "a")
end

describe("the read formats", function()
  for kind, connect in pairs { ["Unix sockets"] = pair, TCP = tcp_pair } do
    it("consume and return the same as those of io, on the same random bytes: " .. kind, function()
      support.seed()
      local directory = support.tmpdir()
      for _ = 1, 100 do
        local bytes = random_bytes()
        support.write_file(directory .. "/bytes", bytes)
        local file <close> = assert(io.open(directory .. "/bytes", "rb"))
        local writer, stream, _ <close> = connect()
        concur.spawn(write_in_pieces, writer, bytes)
        compare(file, #bytes, stream)
      end
    end)
  end

  it("write numbers as io does", function()
    local numbers = { 0, -1, 1.0, -0.0, 0.1, 1e15, 1e16, 1e100, 2 ^ 53, 2 ^ 63, math.maxinteger,
      math.mininteger, 1 / 3, 100.0, 123456.789, math.pi }
    local path = support.tmpdir() .. "/numbers"
    local file = assert(io.open(path, "wb"))
    local one, other <close> = net.socketpair()
    for _, number in ipairs(numbers) do
      file:write(number, " ")
      one:write(number, " ")
    end
    file:close()
    one:close()
    assert.equal(support.read_file(path), other:read "a")
  end)
end)

-- ---------------------------------------------------------------------------------------------
-- Limits
-- ---------------------------------------------------------------------------------------------

describe("a limit", function()
  local function overrun(...)
    local result, err = ...
    assert.is_nil(result)
    assert.is_true(concur.errors.is(err, "LimitOverrun"), tostring(err))
  end

  it("stops lines, everything, numbers and separators, and loses nothing", function()
    local one <close>, other = net.socketpair()
    assert.equal(16 * 1024 * 1024, one:limit())
    assert.equal(10, one:limit(10))
    other:write((" "):rep(20), "12345678901234567890\nshort\n")
    overrun(one:read "l")
    overrun(one:read "L")
    overrun(one:read "n")
    overrun(one:read_until "\n")
    overrun(one:read_until("short", 20))
    assert.equal((" "):rep(20), one:read(20)) -- a count says its own limit
    overrun(one:read "l")
    assert.equal("1234567890", one:read_some(10))
    assert.equal("1234567890", one:read "l") -- exactly the limit
    other:close()
    assert.equal("short\n", one:read "a")
  end)

  it("stops a line that has not ended yet, and one that grows while it is waited for", function()
    local one, other, _ <close> = pair()
    one:limit(1000)
    local reader = concur.spawn(one.read, one)
    for _ = 1, 12 do
      other:write(("x"):rep(100))
      concur.checkpoint()
    end
    overrun(reader:result())
    overrun(one:read "a")
    assert.equal(1200, #one:read(1200))
  end)

  it("can be taken away", function()
    local one, other, _ <close> = pair()
    assert.equal(math.huge, one:limit(math.huge))
    other:write(("x"):rep(100000), "\n")
    assert.equal(100000, #one:read())
  end)

  it("of several formats undoes the ones before", function()
    local one, other, _ <close> = pair()
    one:limit(8)
    other:write "12 abc\n0123456789\n"
    overrun(one:read("n", 1, "l", "l"))
    assert.equal(12, (one:read "n"))
    assert.equal(" abc", one:read "l")
  end)
end)

-- ---------------------------------------------------------------------------------------------
-- Readers
-- ---------------------------------------------------------------------------------------------

describe("a reader", function()
  it("is alone: a second one gets InvalidState, and the first one its bytes", function()
    local one, other, _ <close> = pair()
    local first = concur.spawn(one.read, one, 4)
    concur.checkpoint()
    local err = expect.error("InvalidState", one.read, one)
    assert.is_truthy(err.message:find("another task is reading", 1, true))
    other:write "1234"
    assert.equal("1234", first:result())
  end)

  it("that is cancelled has consumed nothing", function()
    local one, other, _ <close> = pair()
    other:write "12 partial"
    for _, formats in ipairs { { "l" }, { "n", "l" }, { 2, 1, "L" }, { "n", 100 }, { "a" } } do
      local reader = concur.spawn(one.read, one, table.unpack(formats))
      concur.sleep(0.001)
      reader:cancel()
      concur.wait { reader }
      assert.is_true(reader:cancelled())
    end
    other:write "\n"
    assert.same({ "integer 12", " partial", n = 2 }, pack_result(one:read("n", "l")))
  end)

  it("that runs out of time loses nothing either", function()
    local one, other, _ <close> = pair()
    other:write "late"
    assert.is_false((concur.move_on_after(0.01, one.read, one)))
    other:write "r\n"
    assert.equal("later", one:read())
  end)

  it("gets what came before an error, then the error, again and again", function()
    local listener <close> = assert(net.listen("127.0.0.1", 0))
    local _, port = listener:address()
    local client = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(listener:accept())
    client:write "last words"
    server:write "never read" -- a close with unread bytes is a reset
    assert.equal("last", server:read(4))
    concur.sleep(0.01)
    client:close()
    for _ = 1, 2 do
      local line, err = server:read()
      assert.is_nil(line)
      assert.equal("ECONNRESET", err.code)
      assert.is_truthy(err.message:find("127.0.0.1", 1, true))
    end
    assert.equal(" words", server:read_some())
    local _, err = server:read_some()
    assert.equal("ECONNRESET", err.code)
  end)

  plain_it("is told with ETIMEDOUT that the other side of TCP does not answer any more", function()
    support.check_lua([[
      local concur = require "concur"
      local streams = require "spec.support.streams"
      concur.run(function()
        local one, other, _ <close> = streams.tcp_pair()
        local host, port = one:peer_address()
        local ETIMEDOUT = 110 -- what the system says when its probes or packets got no answer
        local reader = concur.spawn(one.read, one)
        concur.sleep(0.01)
        testhost.fail(" recv read ", 1, 1, ETIMEDOUT)
        other:write "x"
        local line, err = reader:result()
        assert(testhost.fail() == 1)
        assert(line == nil and err.code == "ETIMEDOUT", tostring(err))
        assert(err.address == host .. ":" .. port and err.message:find(err.address, 1, true))
        line, err = one:read() -- again and again
        assert(line == nil and err.code == "ETIMEDOUT", tostring(err))
      end)
    ]], { lua = support.host, env = faults.environment(true) })
  end)

  it("is woken with Closed when another task closes the stream", function()
    local one, other <close> = net.socketpair()
    local reader = concur.spawn(one.read, one, "a")
    concur.checkpoint()
    one:close()
    local result, err = reader:result()
    assert.is_nil(result)
    assert.equal("Closed", err.kind)
    expect.error("Closed", one.read, one)
    expect.error("Closed", one.lines, one)
    assert(not other:closed())
  end)

  it("of lines raises what read returns", function()
    local one, other, _ <close> = pair()
    one:limit(3)
    other:write "abc\nabcd\n"
    local seen = {}
    expect.error("LimitOverrun", function()
      for line in one:lines() do
        seen[#seen + 1] = line
      end
    end)
    assert.same({ "abc" }, seen)
  end)

  it("leaves a flood in the system, beyond the high-water mark", function()
    local one, other, _ <close> = pair()
    one:water_marks { read_high = 10000, read_low = 100 }
    other:water_marks { write_high = 1 }
    local sent = 0
    local writer = concur.spawn(function()
      local chunk = ("x"):rep(4096)
      while sent < 4 * 1024 * 1024 do
        other:write(chunk)
        sent = sent + #chunk
      end
      other:shutdown()
    end)
    assert.equal("x", one:read(1))
    concur.sleep(0.05)
    assert.is_true(sent < 1024 * 1024, sent .. " bytes were taken in")
    local received = 1
    while true do
      local some = one:read_some(1000)
      if not some then
        break
      end
      received = received + #some
    end
    writer:result()
    assert.equal(sent, received)
  end)

  it("takes in again what waits in the system at the low-water mark, not before", function()
    local one, other, _ <close> = pair()
    one:water_marks { read_high = 50000, read_low = 1000 }
    local writer = concur.spawn(function()
      for _ = 1, 100 do
        other:write(("x"):rep(10000))
      end
    end)
    assert.equal("x", one:read(1))
    concur.sleep(0.02)
    local held = one:buffered()
    assert.is_true(held >= 50000 and held < 50000 + 2 * 65536, held) -- libuv reads in 64 KiB
    one:read(held - 1001)
    concur.sleep(0.01)
    assert.equal(1001, one:buffered())
    one:read(1)
    concur.sleep(0.01)
    assert.is_true(one:buffered() >= 50000, one:buffered())
    assert.equal(1000000 - 1 - (held - 1001) - 1, #one:read(1000000 - 1 - (held - 1001) - 1))
    writer:result()
  end)

  it("is at first given 64 KiB ahead, and more below 16 KiB", function()
    local one, other, _ <close> = pair()
    local writer = concur.spawn(function()
      for _ = 1, 30 do
        other:write(("x"):rep(10000))
      end
    end)
    assert.equal("x", one:read(1))
    concur.sleep(0.02)
    local held = one:buffered()
    assert.is_true(held >= 65536 and held < 3 * 65536, held)
    one:read(held - 16385)
    concur.sleep(0.01)
    assert.equal(16385, one:buffered())
    one:read(1)
    concur.sleep(0.01)
    assert.is_true(one:buffered() >= 65536, one:buffered())
    assert.equal(300000 - held + 16383, #one:read(300000 - held + 16383))
    writer:result()
  end)

  it("may have a deadline that every byte puts off, and one for all", function()
    local one, other, _ <close> = pair()
    local writer = concur.spawn(function()
      for _ = 1, 8 do
        other:write "x"
        concur.sleep(0.05)
      end
    end)
    local read = 0
    local start = concur.now()
    local ended = concur.cancel_scope(function(scope)
      while true do
        scope:deadline(concur.now() + 0.2 * support.time_scale)
        one:read(1)
        read = read + 1
      end
    end)
    assert.is_false(ended)
    assert.equal(8, read)
    assert.is_true(concur.now() - start > 0.35)
    writer:result()
    other:write "still there"
    assert.equal("still there", one:read(11))
  end)

  it("of white space without end costs no more than its bytes", function()
    local one, other, _ <close> = pair()
    concur.spawn(function()
      for _ = 1, 20000 do
        other:write((" "):rep(50))
        concur.checkpoint()
      end
      other:write "7 "
    end)
    local before = os.clock()
    assert.equal(7, (one:read "n"))
    assert.is_true(os.clock() - before < 2 * support.time_scale)
  end)

  it("of a megabyte line is as fast as its bytes, not their square", function()
    local one, other, _ <close> = pair()
    concur.spawn(function()
      for _ = 1, 4000 do
        other:write(("x"):rep(1000))
      end
      other:write "\n"
    end)
    local before = os.clock()
    assert.equal(4000000, #one:read())
    assert.is_true(os.clock() - before < 2 * support.time_scale)
  end)
end)

describe("a finalizer that closes the stream in the middle of a read", function()
  plain_it("is survived", function()
    local seed = support.seed()
    support.check_lua(([[
      math.randomseed(%d)
      local concur = require "concur"
      local net = require "concur.net"
      local READS = {
        function(stream) return stream:read("l", "n", "n", "L", 3, "a") end,
        function(stream) return stream:read_until "|" end,
        function(stream) return stream:read_until "nowhere" end,
        function(stream) return stream:read_until("nowhere", 20) end,
        function(stream) return stream:read_some(7) end,
        function(stream) return stream:read "a" end,
        function(stream) return stream:read_into(concur.SharedBuffer(16)) end,
        function(stream) for _ in stream:lines() do stream:write "x" end end,
      }
      local text = "a line\n12 0x10 \nanother | with much text behind it: " .. ("x"):rep(3000)
      local closed, current, reading = 0, nil, false
      local saboteur = { __gc = function() -- garbage, of which some ends in the middle of a read
        if reading and math.random(3) == 1 and not current:closed() then
          closed = closed + 1
          current:close(0)
        end
      end }
      collectgarbage("incremental", 1, 1000, 1)
      concur.run(function()
        for round = 1, 100 do
          for _, read in ipairs(READS) do
            local one, other = net.socketpair()
            local writer = concur.spawn(function()
              one:write(text:sub(1, round))
              concur.checkpoint()
              one:write(text:sub(round + 1))
              one:close()
            end)
            if round %% 2 == 0 then
              concur.wait { writer }
            end
            for _ = 1, 5 do
              setmetatable({}, saboteur)
            end
            current, reading = other, true
            pcall(read, other)
            reading = false
            other:close(0)
            concur.wait { writer }
          end
        end
      end)
      assert(closed > 20, closed)
    ]]):format(seed))
  end)
end)

describe("bytes that were received and not returned yet", function()
  plain_it("are there for the next read when memory was refused for their string", function()
    faults.fail_cleanly([[
      local concur = require "concur"
      local net = require "concur.net"
      local text = ("x"):rep(100)
      local got
      concur.run(function()
        local one, other = net.socketpair()
        assert(other:write(text))
        arm()
        for _ = 1, 4 do
          local ok, bytes = pcall(one.read_some, one)
          if ok then got = bytes break end
        end
        disarm()
      end)
      assert(got == text, "bytes were lost")
    ]], false, { "not enough memory" }, { times = { "2" } })
  end)
end)

describe("a read cancelled at every step", function()
  local function scenario(read, expected, connect)
    plain_it("consumes all or nothing: " .. expected, function()
      everywhere(function(case)
        local one, other, _ <close> = (connect or pair)()
        local victim = case:victim(function()
          return read(one)
        end)
        local writer = concur.spawn(function()
          for _, piece in ipairs { "12 3", "4\nli", "ne\nrest" } do
            other:write(piece)
            concur.checkpoint()
          end
        end)
        local outcome, result = case:join(victim)
        writer:result()
        other:shutdown()
        local rest = one:read "a"
        if outcome == "done" then
          assert.equal(expected, result)
        else
          assert.equal("cancelled", outcome)
        end
        local whole = "12 34\nline\nrest"
        assert.is_true(rest == whole or outcome == "done" and #rest < #whole, rest)
      end, { also = { "kill" } })
    end)
  end

  scenario(function(stream)
    local a, b, line = stream:read("n", "n", "L")
    return a .. "," .. b .. "," .. line
  end, "12,34,\n")

  scenario(function(stream)
    return stream:read_until "line\n"
  end, "12 34\nline\n")

  scenario(function(stream)
    return stream:read(10)
  end, "12 34\nline", tcp_pair)

  scenario(function(stream)
    return stream:read_some(3)
  end, "12 ", tcp_pair)

  scenario(function(stream)
    local buffer = concur.SharedBuffer(2)
    return buffer:tostring(1, stream:read_into(buffer))
  end, "12")

  scenario(function(stream)
    return stream:lines "L"()
  end, "12 34\n")
end)
