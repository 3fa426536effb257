-- SPDX-License-Identifier: MIT
-- Bytes that states share: docs/reference/shared_buffer.md. The last part uses real threads.
local concur = require "concur"
local core = require "concur.core"
local support = require "spec.support"

local function copy(...)
  return core.decode(core.encode(...))
end

-- The message of the error that a call raises.
local function message_of(f, ...)
  local ok, e = pcall(f, ...)
  assert.is_false(ok)
  return tostring(e)
end

describe("a shared buffer", function()
  it("is made of zeros or of a string", function()
    local zeros = concur.SharedBuffer(4)
    assert.equal(4, #zeros)
    assert.equal("\0\0\0\0", zeros:tostring())
    assert.equal("any\0bytes", concur.SharedBuffer("any\0bytes"):tostring())
    assert.equal(0, #concur.SharedBuffer(0))
    assert.equal("", concur.SharedBuffer(""):tostring())
  end)

  it("names the argument that is wrong", function()
    local buffer = concur.SharedBuffer(8)
    local function fails(pattern, f, ...)
      assert.matches(pattern, message_of(f, ...))
    end
    fails("bad argument #1 .*negative", concur.SharedBuffer, -1)
    fails("bad argument #1 .*size or string expected, got table", concur.SharedBuffer, {})
    fails("bad argument #1 .*no integer representation", concur.SharedBuffer, 1.5)
    fails("not enough memory", concur.SharedBuffer, math.maxinteger)
    fails("bad argument #1 .*concur.SharedBuffer expected", buffer.get, {}, "i8", 1)
    fails("bad argument #1 .*unknown type 'i7'", function() buffer:get("i7", 1) end)
    fails("bad argument #2 .*position 0 is outside", function() buffer:get("i8", 0) end)
    fails("bad argument #2 .*position 6 is outside the buffer %(4 bytes there, 8 in all%)",
      function() buffer:get("i32", 6) end)
    fails("bad argument #2 .*outside", function() buffer:get("i8", -9) end)
    fails("bad argument #2 .*outside", function() buffer:get("i8", math.maxinteger) end)
    fails("bad argument #2 .*outside", function() buffer:get("i8", math.mininteger) end)
    fails("bad argument #3 .*value 128 does not fit type 'i8'",
      function() buffer:set("i8", 1, 128) end)
    fails("bad argument #3 .*value %-1 does not fit type 'u16'",
      function() buffer:set("u16", 1, -1) end)
    fails("bad argument #3 .*number expected", function() buffer:set("f32", 1, "x") end)
    fails("bad argument #1 .*byte from 0 to 255", function() buffer:fill(256) end)
    fails("bad argument #1 .*outside", function() buffer:write(8, "ab") end)
    fails("bad argument #1 .*not aligned", function() concur.SharedBuffer(16):add(2, 1) end)
    fails("bad argument #3 .*atomic types", function() buffer:add(1, 1, "i16") end)
    fails("bad argument #3 .*atomic types", function() buffer:store(1, 1, "f64") end)
  end)

  it("shows what it is", function()
    local buffer = concur.SharedBuffer(10)
    assert.matches("^SharedBuffer %(10 bytes%)", tostring(buffer))
    assert.matches("^SharedBuffer %(slice of 3 bytes at 4%)", tostring(buffer:slice(4, 6)))
    buffer:close()
    assert.equal("SharedBuffer (closed)", tostring(buffer))
  end)

  it("has numbers of all sizes, at any position", function()
    local buffer = concur.SharedBuffer(16)
    local cases = {
      { "i8", -128, 127 }, { "u8", 0, 255 }, { "i16", -32768, 32767 }, { "u16", 0, 65535 },
      { "i32", -2 ^ 31 | 0, 2 ^ 31 - 1 | 0 }, { "u32", 0, 2 ^ 32 - 1 | 0 },
      { "i64", math.mininteger, math.maxinteger }, { "u64", 0, -1 },
    }
    for _, case in ipairs(cases) do
      for _, order in ipairs { "", "<", ">" } do
        for position = 1, 3 do
          for i = 2, 3 do
            local kind = order .. case[1]
            assert.equal(buffer, buffer:set(kind, position, case[i]))
            assert.equal(case[i], buffer:get(kind, position), kind)
          end
        end
      end
    end
    buffer:set("f64", 3, -0.1):set("f32", 12, 0.5)
    assert.equal(-0.1, buffer:get("f64", 3))
    assert.equal(0.5, buffer:get("f32", 12))
    assert.equal("float", math.type(buffer:get("f32", 12)))
  end)

  it("has them where string.pack puts them", function()
    local buffer = concur.SharedBuffer(8)
    for kind, format in pairs { i16 = "i2", u32 = "I4", i64 = "i8", f64 = "d", f32 = "f" } do
      for _, order in ipairs { "<", ">" } do
        buffer:fill(0):set(order .. kind, 1, 77)
        local packed = string.pack(order .. format, 77)
        assert.equal(packed, buffer:tostring(1, #packed))
      end
      buffer:fill(0):set(kind, 1, 77)
      assert.equal(77, (string.unpack("=" .. format, buffer:tostring())))
    end
    buffer:set("u8", -1, 9)
    assert.equal(9, buffer:get("u8", 8))
  end)

  it("is written, filled and read in parts, like a string", function()
    local text = "hello, world"
    local buffer = concur.SharedBuffer(text)
    for i = -14, 14 do
      for j = -14, 14 do
        assert.equal(text:sub(i, j), buffer:tostring(i, j))
        assert.equal(text:sub(i, j), buffer:slice(i, j):tostring())
      end
    end
    assert.equal(buffer, buffer:write(8, "there"))
    assert.equal("hello, there", buffer:tostring())
    buffer:write(-5, "where"):fill(45, 6, 7):fill(33, -1)
    assert.equal("hello--wher!", buffer:tostring())
    buffer:write(1, "")
    buffer:fill(0)
    assert.equal(("\0"):rep(12), buffer:tostring())
  end)

  it("shares its memory with slices, which outlive it", function()
    local buffer = concur.SharedBuffer("0123456789")
    local slice = buffer:slice(3, 8)
    local inner = slice:slice(2, 3)
    slice:write(1, "ABC")
    assert.equal("01ABC56789", buffer:tostring())
    assert.equal("BC", inner:tostring())
    assert.matches("outside", message_of(slice.get, slice, "u8", 7))
    buffer:close()
    collectgarbage()
    assert.equal("ABC567", slice:tostring())
    inner:set("u8", 1, 33)
    assert.equal("A!C567", slice:tostring())
  end)

  it("is closed once, and then says so", function()
    local buffer <close> = concur.SharedBuffer(8)
    buffer:close()
    buffer:close()
    for _, call in ipairs {
      function() return #buffer end,
      function() return buffer:get("i8", 1) end,
      function() return buffer:slice() end,
      function() return buffer:tostring() end,
      function() return buffer:add(1, 1) end,
      function() return buffer:fill(0) end,
    } do
      local ok, e = pcall(call)
      assert.is_false(ok)
      assert.is_true(concur.errors.is(e, "Closed"))
    end
    local _, e = pcall(core.encode, { b = buffer })
    assert.is_true(concur.errors.is(e, "TransferError"))
    assert.matches("argument 1.b: a SharedBuffer cannot cross: it is closed", e.message)
  end)
end)

describe("atomic integers", function()
  it("load, store, add and compare", function()
    local buffer = concur.SharedBuffer(16)
    assert.equal(0, buffer:add(1, 5))
    assert.equal(5, buffer:add(1, -7))
    assert.equal(-2, buffer:load(1))
    assert.equal(buffer, buffer:store(1, 100))
    assert.same({ true, 100 }, { buffer:cas(1, 100, 200) })
    assert.same({ false, 200 }, { buffer:cas(1, 100, 300) })
    assert.equal(200, buffer:load(1))
    assert.equal(0, buffer:load(9))
    buffer:store(1, math.maxinteger)
    buffer:add(1, 1)
    assert.equal(math.mininteger, buffer:load(1))
  end)

  it("may have 32 bits", function()
    local buffer = concur.SharedBuffer(16)
    buffer:store(5, 2 ^ 32 - 1 | 0, "u32")
    assert.equal(2 ^ 32 - 1, buffer:load(5, "u32"))
    assert.equal(-1, buffer:load(5, "i32"))
    assert.equal(-1, buffer:add(5, 3, "i32"))
    assert.equal(2, buffer:load(5, "i32"))
    assert.equal(0, buffer:load(1, "i32"))
    assert.equal(0, buffer:load(9, "i32"))
    assert.same({ true, 2 }, { buffer:cas(5, 2, 7, "u32") })
    assert.same({ false, 7 }, { buffer:cas(5, 2, 8, "u32") })
    assert.matches("does not fit", message_of(buffer.store, buffer, 5, 2 ^ 32 | 0, "u32"))
  end)

  it("are aligned in the whole buffer, also seen through a slice", function()
    local slice = concur.SharedBuffer(32):slice(5)
    assert.matches("not aligned", message_of(slice.load, slice, 1))
    assert.equal(0, slice:load(5))
    assert.equal(0, slice:load(1, "u32"))
  end)
end)

describe("crossing", function()
  it("refers to the same bytes", function()
    local buffer = concur.SharedBuffer("0123456789")
    local other, again, slice = copy(buffer, buffer, buffer:slice(3, 5))
    assert.equal(buffer, other)
    assert.is_true(rawequal(other, again))
    assert.not_equal(buffer, slice)
    other:write(1, "xxxxx")
    assert.equal("xxxxx56789", buffer:tostring())
    assert.equal("xxx", slice:tostring())
    buffer:close()
    assert.equal("xxxxx56789", other:tostring())
  end)

  it("to another process is refused", function()
    local ok, e = pcall(core.encode_flat, { concur.SharedBuffer(1) })
    assert.is_false(ok)
    assert.matches("argument 1%[1%]: a SharedBuffer cannot cross to another process", e.message)
  end)

  it("between threads, where additions are never lost", function()
    local buffer = concur.SharedBuffer(16)
    local pool <close> = concur.ThreadPoolExecutor(4)
    local futures = {}
    for i = 1, 8 do
      futures[i] = pool:submit(function(counter, times)
        for _ = 1, times do
          counter:add(1, 1)
          repeat
            local now = counter:load(9)
          until counter:cas(9, now, now + 1)
        end
      end, buffer, 1000)
    end
    for i = 1, 8 do
      futures[i]:result()
    end
    assert.equal(8000, buffer:load(1))
    assert.equal(8000, buffer:load(9))
  end)

  it("frees the memory when the last state lets go", function()
    local code = [[
      local concur = require "concur"
      for _ = 1, 16 do
        local pool <close> = concur.ThreadPoolExecutor(2)
        for _ = 1, 10 do
          local buffer = concur.SharedBuffer(4 << 20)
          pool:submit(function(b) kept = { kept, b:fill(1) } end, buffer):result()
        end
      end
      collectgarbage()
      local file = io.open "/proc/self/status"
      print(file and file:read "a":match "VmRSS:%s*(%d+) kB" or 0)
    ]]
    -- 640 MiB were touched. A sanitizer keeps 256 MiB of what was freed; so would glibc, if its
    -- threshold for large blocks were free to move.
    local output = support.check_lua(code, { env = { MALLOC_MMAP_THRESHOLD_ = "1000000" } })
    local kilobytes = tonumber(output)
    assert.is_true(kilobytes < 450000, kilobytes)
  end)
end)
