-- SPDX-License-Identifier: MIT
-- Random programs over streams: whatever sizes, formats, limits, water marks and cancellations meet,
-- the bytes that come out are those of the writes that succeeded, in their order. The seed is printed
-- when one fails; CONCUR_NET_ROUNDS says how many programs there are.

local concur = require "concur"
local support = require "spec.support"
local testing = require "concur.testing"

local net = concur.net
local it = testing.wrap_it(it, { clock = false })
local random = math.random

local ROUNDS = math.tointeger(tonumber(os.getenv "CONCUR_NET_ROUNDS") or 40)

-- Two connected streams over one of the ways there are.
local function pair()
  local kind = random(4)
  if kind == 1 then
    return net.socketpair()
  end
  local path = ("\0concur-random-%d"):format(support.pid())
  local listener <close> = assert(kind == 4 and net.listen { path = path }
    or net.listen(kind == 2 and "127.0.0.1" or "::1", 0))
  local host, port = listener:address()
  local client = assert(port and net.connect(host, port) or net.connect { path = host })
  local server = assert(listener:accept())
  if random(2) == 1 then
    return client, server
  end
  return server, client
end

-- Calls fn, perhaps cancelled somewhere: false, or true and its results.
local function perhaps(fn)
  local kind = random(4)
  if kind == 1 then
    return concur.move_on_after(random() * 0.002, fn)
  elseif kind == 2 then
    local task = concur.spawn(fn)
    for _ = 1, random(0, 3) do
      concur.checkpoint()
    end
    if random(2) == 1 then
      task:cancel()
    end
    concur.wait { task }
    if task:cancelled() then
      return false
    end
    return true, task:result()
  elseif kind == 3 then
    return concur.cancel_scope(function(scope)
      if random(3) == 1 then
        concur.spawn(function()
          concur.sleep(0)
          scope:cancel()
        end)
      end
      return fn()
    end)
  end
  return true, fn()
end

-- Text of which every piece can be told from every other.
local function pieces(counter)
  local list = {}
  for i = 1, random(8) == 1 and random(1, 40) or random(1, 3) do
    counter.n = counter.n + 1
    local filler = ("z"):rep(random(6) == 1 and random(0, 60000) or random(0, 20))
    list[i] = counter.n .. (random(3) == 1 and "\n" or " ") .. filler
      .. (random(2) == 1 and "\n" or "")
  end
  return list
end

-- Writes, and returns what the writes that were not cancelled wrote.
local function write_all(stream)
  local sent, counter = {}, { n = 0 }
  for _ = 1, random(1, 60) do
    local list = pieces(counter)
    local done, ok, err = perhaps(function()
      return stream:write(table.unpack(list))
    end)
    if done then
      assert(ok, err)
      sent[#sent + 1] = table.concat(list)
    end
    if random(6) == 1 then
      perhaps(function()
        return stream:flush()
      end)
    end
    if random(3) == 1 then
      concur.checkpoint()
    end
  end
  if random(2) == 1 then
    assert(stream:shutdown())
  else
    assert(stream:close(60))
  end
  return table.concat(sent)
end

-- Each reads something: the bytes, or nil and perhaps an error.
local buffer = concur.SharedBuffer(5000)
local READS = {
  function(stream)
    return stream:read(random(1, 3000))
  end,
  function(stream)
    return stream:read "L"
  end,
  function(stream)
    return stream:read_some(random(2) == 1 and random(1, 70000) or nil)
  end,
  function(stream)
    local bytes, err = stream:read_until(random(2) == 1 and "\n" or "z\n")
    if err and err.kind == "IncompleteRead" then
      return err.partial
    end
    return bytes, err
  end,
  function(stream)
    local count, err = stream:read_into(buffer, 1, random(1, 5000))
    return count and buffer:tostring(1, count), err
  end,
  function(stream)
    local first, second, third = stream:read(3, "L", 5)
    if type(second) == "table" then
      return nil, second
    end
    return first and first .. (second or "") .. (third or "")
  end,
}

local function read_all(stream)
  local received = {}
  while true do
    local read = READS[random(#READS)]
    local done, bytes, err = perhaps(function()
      return read(stream)
    end)
    if done and not bytes and not err then
      bytes, err = stream:read_some() -- is it the end?
      assert(not err, err)
      if not bytes then
        return table.concat(received)
      end
    elseif done and not bytes then
      assert(err.kind == "LimitOverrun", err) -- another way of reading takes it
    end
    if done then
      received[#received + 1] = bytes
    end
    if random(4) == 1 then
      concur.checkpoint()
    end
  end
end

-- Text that is hard to read: numbers of every kind, lines of every length.
local NUMBERS = { "0x1F", "0x.8p1", "1e5", "-.5", "+7.", "0x", "1e+", "..", ".", "-", "+-3", "nan",
  "0X1P-3", "00012", "1.5.5", ("7"):rep(199), ("7"):rep(200), ("7"):rep(201) }

local function hard_text()
  local parts = {}
  for i = 1, random(1, 100) do
    local kind = random(6)
    parts[i] = kind == 1 and NUMBERS[random(#NUMBERS)] or kind == 2 and tostring(random(-1e6, 1e6))
      or kind == 3 and (" "):rep(random(0, 40)) .. "\t"
      or kind == 4 and string.char(random(0, 255)):rep(random(0, random(20) == 1 and 150000 or 300))
      or "\n"
    if random(3) == 1 then
      parts[i] = parts[i] .. " "
    end
  end
  return table.concat(parts)
end

-- Writes the text in pieces of any size, with pauses.
local function write_in_pieces(stream, text)
  local most = ({ 7, 300, 90000 })[random(3)]
  local at = 1
  while at <= #text do
    local size = random(1, #text > 20000 and math.max(most, 3000) or most)
    assert(stream:write(text:sub(at, at + size - 1)))
    at = at + size
    if random(3) == 1 then
      concur.sleep(random(3) == 1 and random() * 0.0005 or 0)
    end
  end
  assert(stream:shutdown())
end

local FORMATS = { "l", "L", "n", "n", "a" }

local function random_formats()
  local formats = {}
  for i = 1, random(4) == 1 and random(2, 4) or 1 do
    formats[i] = random(3) == 1 and random(0, 300) or FORMATS[random(random(10) == 1 and 5 or 4)]
  end
  return formats
end

-- Reads with the same formats from both until their end. Cancelled reads are none.
local function read_both(stream, file)
  repeat
    local formats = random_formats()
    local got = table.pack(perhaps(function()
      return stream:read(table.unpack(formats))
    end))
    if got[1] then
      local wanted = table.pack(true, file:read(table.unpack(formats)))
      assert.same(wanted, got, table.concat(formats, ", "))
    end
  until got[1] and not file:read(0) and not stream:read(0)
end

local function settle_in(stream)
  if random(2) == 1 then
    stream:water_marks { write_high = random(1, 100000), read_high = random(1, 100000) }
  end
  if random(3) == 1 then
    stream:setvbuf "no"
  end
  if random(3) == 1 then
    stream:limit(random(1, 5000))
  end
end

describe("random programs over streams", function()
  it("get the bytes of the writes that succeeded, in order, whatever is cancelled", function()
    support.seed()
    for round = 1, ROUNDS do
      local one, other = pair()
      settle_in(one)
      settle_in(other)
      local writer, reader = concur.spawn(write_all, one), concur.spawn(read_all, other)
      concur.timeout(60, concur.wait, { writer, reader })
      assert.is_true(writer:result() == reader:result(), "round " .. round)
      one:close(0)
      other:close(0)
    end
  end)

  it("get what the same formats read from a file", function()
    support.seed()
    for _ = 1, ROUNDS do
      local one, other = pair()
      if random(3) == 1 then
        other:water_marks { read_high = random(1, 3000) }
      end
      local text, file <close> = hard_text(), assert(io.tmpfile())
      assert(file:write(text))
      file:seek "set"
      local writer = concur.spawn(write_in_pieces, one, text)
      concur.timeout(60, read_both, other, file)
      writer:result()
      one:close(0)
      other:close(0)
    end
  end)
end)
