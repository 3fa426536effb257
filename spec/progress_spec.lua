-- SPDX-License-Identifier: MIT
-- luacheck: ignore 512 (loops that are left in their first round are the subject)

local concur = require "concur"
local progress = require "concur.progress"

-- A terminal that remembers what was written.
local function fake_output()
  local output = { written = {}, flushed = 0 }
  function output:write(text)
    self.written[#self.written + 1] = text
    return self
  end
  function output:flush()
    self.flushed = self.flushed + 1
  end
  function output:text()
    return table.concat(self.written)
  end
  -- The lines as a terminal shows them one after another, control sequences taken off.
  function output:frames()
    local frames = {}
    for _, text in ipairs(self.written) do
      frames[#frames + 1] = (text:gsub("\r\27%[K", ""))
    end
    return frames
  end
  return output
end

-- Options for a bar on `output`, 60 columns wide, whose clock advances `step` seconds a look.
local function options(output, extra, step)
  local now = 0
  local all = {
    output = output,
    enabled = true,
    width = 60,
    ascii = true,
    clock = function()
      local before = now
      now = now + (step or 0)
      return before
    end,
  }
  for name, value in pairs(extra or {}) do
    all[name] = value
  end
  return all
end

local ERASE = "\r\27[K"

describe("progress", function()
  describe("passes items through", function()
    it("of a list, with their index", function()
      local seen = {}
      for index, value in progress { "a", "b", "c" } do
        seen[index] = value
      end
      assert.same({ "a", "b", "c" }, seen)
    end)

    it("of an iterator, all values of each step, nil included", function()
      local n = 0
      local function iterator()
        n = n + 1
        if n <= 2 then
          return n, nil, n * 10
        end
      end
      local seen = {}
      for a, b, c in progress(iterator) do
        seen[#seen + 1] = { a, b == nil, c }
      end
      assert.same({ { 1, true, 10 }, { 2, true, 20 } }, seen)
    end)

    it("of what pairs and ipairs return", function()
      local seen = {}
      for key, value in progress(pairs { x = 1, y = 2 }) do
        seen[key] = value
      end
      assert.same({ x = 1, y = 2 }, seen)
      seen = {}
      for index, value in progress(ipairs { 5, 6 }) do
        seen[index] = value
      end
      assert.same({ 5, 6 }, seen)
    end)

    it("of a callable object", function()
      local n = 0
      local object = setmetatable({}, {
        __call = function()
          n = n + 1
          return n < 3 and n or nil
        end,
      })
      local count = 0
      for _ in progress(object) do
        count = count + 1
      end
      assert.equal(2, count)
    end)

    it("of an object that protects its metatable, and closes it", function()
      local closed = 0
      local object = setmetatable({}, {
        __call = function()
          return 1
        end,
        __close = function()
          closed = closed + 1
        end,
        __metatable = "private",
      })
      for item in progress(object, { total = 1 }) do
        assert.equal(1, item)
        break
      end
      assert.equal(1, closed)
    end)

    it("of pool:map and as_completed", function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local seen = {}
      for index, value in progress(pool:map(function(x)
        return x * x
      end, { 1, 2, 3 })) do
        seen[index] = value
      end
      assert.same({ 1, 4, 9 }, seen)
      local count = 0
      local futures = { pool:submit(math.abs, -1), pool:submit(math.abs, -2) }
      for future in progress(concur.as_completed(futures), { total = 2 }) do
        count = count + future:result()
      end
      assert.equal(3, count)
    end)

    it("while the iterator suspends", function()
      local co = coroutine.wrap(function()
        for item in progress(coroutine.yield) do
          coroutine.yield("got " .. item)
        end
        return "end"
      end)
      co()
      assert.equal("got 1", co(1))
      co()
      assert.equal("got 2", co(2))
      co()
      assert.equal("end", co(nil))
    end)
  end)

  describe("closes", function()
    local closes
    local function closable()
      closes = 0
      return setmetatable({}, {
        __close = function()
          closes = closes + 1
        end,
      })
    end
    local function forever()
      return 1
    end

    it("what the iterator gave as fourth value, once, at break, error and end", function()
      for _ in progress(forever, nil, nil, closable()) do
        break
      end
      assert.equal(1, closes)
      assert.has_error(function()
        for _ in progress(forever, nil, nil, closable()) do
          error("boom", 0)
        end
      end, "boom")
      assert.equal(1, closes)
      for _ in progress(function() end, nil, nil, closable()) do
        error("no item expected")
      end
      assert.equal(1, closes)
    end)

    it("an iterator object that came alone", function()
      local count = 0
      local object = setmetatable({}, {
        __call = function()
          return 1
        end,
        __close = function()
          count = count + 1
        end,
      })
      for _ in progress(object, {}) do
        break
      end
      assert.equal(1, count)
    end)

    it("when told, more than once, and gives nothing afterwards", function()
      local it = progress(forever, nil, nil, closable())
      assert.equal(1, it())
      it:close()
      it:close()
      assert.equal(1, closes)
      assert.is_nil(it())
      assert.equal("concur.progress: 1 of ?, closed", tostring(it))
    end)

    it("its own line even if what it closes raises", function()
      local output = fake_output()
      local bad = setmetatable({}, {
        __close = function()
          error("cannot close", 0)
        end,
      })
      assert.has_error(function()
        for _ in progress(forever, nil, nil, bad, options(output)) do
          break
        end
      end, "cannot close")
      assert.equal(ERASE, output.written[#output.written])
    end)
  end)

  describe("draws", function()
    it("figures and a bar from empty to full, then ends the line", function()
      local output = fake_output()
      for _ in progress({ 1, 2, 3, 4 }, options(output, { label = "load", interval = 0 }, 0.5)) do
      end
      assert.same({
        "load   0% [.........................] 0/4",
        "load  25% [######...................] 1/4 1.0/s ETA 0:03",
        "load  50% [############.............] 2/4 1.3/s ETA 0:02",
        "load  75% [##################.......] 3/4 1.5/s ETA 0:01",
        "load 100% [#########################] 4/4 1.6/s 0:03",
        "load 100% [#########################] 4/4 1.3/s 0:03",
        "\n",
      }, output:frames())
      assert.equal(#output.written, output.flushed)
    end)

    it("eighths of a column where the locale allows", function()
      local output = fake_output()
      local list = { 1, 2, 3, 4, 5, 6, 7 }
      for _ in progress(list, options(output, { ascii = false, interval = 0, width = 50 })) do
      end
      local frames = output:frames()
      local full = "\u{2588}"
      assert.equal("  0% \u{2595}" .. (" "):rep(20) .. "\u{258F} 0/7", frames[1])
      local rest = (" "):rep(20 - 3)
      local seventh = full:rep(2) .. "\u{258A}" .. rest
      assert.equal(" 14% \u{2595}" .. seventh .. "\u{258F} 1/7", frames[2])
      assert.equal("100% \u{2595}" .. full:rep(20) .. "\u{258F} 7/7 0:00", frames[8])
    end)

    it("a count, a rate and the time when the total is not known", function()
      local output = fake_output()
      local n = 0
      local function iterator()
        n = n + 1
        return n <= 2 and n or nil
      end
      for _ in progress(iterator, options(output, { interval = 0, unit = "files" }, 1)) do
      end
      local frames = output:frames()
      assert.equal("0 0:01", frames[1])
      assert.equal("1 0.5 files/s 0:02", frames[2])
      assert.equal("2 0.7 files/s 0:03", frames[3])
    end)

    it("not more often than the interval allows", function()
      local output = fake_output()
      local list = {}
      for index = 1, 100 do
        list[index] = index
      end
      for _ in progress(list, options(output, { interval = 0.1 }, 0.01)) do
      end
      assert.is_true(#output.written >= 8 and #output.written <= 14, #output.written)
    end)

    it("within the width, whatever the label", function()
      for width = 0, 70 do
        local accents, bytes = ("\u{E4}"):rep(40), "\xFF\xFE"
        for _, label in ipairs { "", "a label", ("long "):rep(20), accents, bytes } do
          local output = fake_output()
          local extra = { label = label, width = width, interval = 0, ascii = width % 2 == 0 }
          for _ in progress({ 1, 2 }, options(output, extra, 0.1)) do
          end
          for _, frame in ipairs(output:frames()) do
            if frame ~= "\n" then
              assert.is_true((utf8.len(frame) or #frame) <= math.max(width - 1, 0))
            end
          end
        end
      end
    end)

    it("control characters of a label as spaces", function()
      local output = fake_output()
      for _ in progress({ 1 }, options(output, { label = "a\nb\27c" })) do
      end
      assert.matches("a b c", output:text(), 1, true)
    end)

    it("no more than 100% when there are more items than were told", function()
      local output = fake_output()
      for _ in progress({ 1, 2, 3 }, options(output, { total = 2, interval = 0 })) do
      end
      assert.matches("100%%.*3/2", output:frames()[5])
    end)

    it("a total of 0", function()
      local output = fake_output()
      for _ in progress({}, options(output)) do
      end
      assert.matches("^100%%.*0/0", output:frames()[1])
    end)

    it("rates and times of any size", function()
      local output = fake_output()
      local extra = { total = 10 ^ 9 // 1 | 0, interval = 0 }
      for _ in progress({ 1 }, options(output, extra, 1e-7)) do
      end
      assert.matches("M/s", output:text(), 1, true)
      output = fake_output()
      extra.total = 7300
      for _ in progress({ 1, 2 }, options(output, extra, 0.5)) do
      end
      assert.matches("ETA 2:01:39", output:text(), 1, true)
    end)
  end)

  describe("leaves the line", function()
    it("empty after break and after an error", function()
      local output = fake_output()
      for _ in progress({ 1, 2 }, options(output)) do
        break
      end
      assert.equal(ERASE, output.written[#output.written])
      assert.not_matches("\n", output:text(), 1, true)
      output = fake_output()
      pcall(function()
        for _ in progress({ 1, 2 }, options(output)) do
          error("boom")
        end
      end)
      assert.equal(ERASE, output.written[#output.written])
    end)

    it("empty at the end with leave = false", function()
      local output = fake_output()
      for _ in progress({ 1, 2 }, options(output, { leave = false })) do
      end
      assert.equal(ERASE, output.written[#output.written])
    end)

    it("alone after its end", function()
      local output = fake_output()
      local it = progress({ 1 }, options(output))
      assert.equal(1, it())
      assert.is_nil(it())
      local count = #output.written
      it:close()
      assert.is_nil(it())
      assert.equal(count, #output.written)
    end)

    it("in place when the iterator raises, and goes on when called again", function()
      local output, n = fake_output(), 0
      local it = progress(function()
        n = n + 1
        if n == 2 then
          error("job 2", 0)
        end
        return n < 4 and n or nil
      end, options(output, { total = 3 }))
      assert.equal(1, it())
      assert.has_error(it, "job 2")
      assert.equal(3, it())
      assert.is_nil(it())
      assert.equal("\n", output.written[#output.written])
    end)
  end)

  it("is silent when the output is no terminal", function()
    local output = fake_output()
    for _ in progress({ 1, 2 }, { output = output }) do
    end
    for _ in progress({ 1, 2 }, { output = output, enabled = false, width = 50 }) do
      break
    end
    assert.equal("", output:text())
    local file = assert(io.tmpfile())
    for _ in progress({ 1, 2 }, { output = file }) do
    end
    file:seek("set")
    assert.equal("", file:read("a"))
    file:close()
  end)

  it("names a wrong argument", function()
    for message, call in pairs {
      ["bad argument #1 to 'progress' (list or iterator expected, got nil)"] = function()
        progress(nil)
      end,
      ["concur.progress: options must be a table, got number"] = function()
        progress({}, 5)
      end,
      ["concur.progress: unknown option 'totl'"] = function()
        progress({}, { totl = 1 })
      end,
      ["concur.progress: option 'total' must be an integer, got float"] = function()
        progress({}, { total = 1.5 })
      end,
      ["concur.progress: option 'total' must be 0 or more"] = function()
        progress({}, { total = -1 })
      end,
      ["concur.progress: option 'interval' must be 0 or more"] = function()
        progress({}, { interval = 0 / 0 })
      end,
      ["concur.progress: option 'label' must be a string, got table"] = function()
        progress({}, { label = {} })
      end,
    } do
      local ok, got = pcall(call)
      assert.is_false(ok)
      assert.matches(message, got, 1, true)
      assert.matches("progress_spec.lua:", got, 1, true)
    end
  end)
end)
