-- SPDX-License-Identifier: MIT
-- What crosses from one Lua state to another and what is refused: docs/reference/transfer.md.
--
-- Most of it is the same within one state, so that is where it is shown; the last parts go through
-- another process, and through another state of this process.
local lfs = require "lfs"

local concur = require "concur"
local core = require "concur.core"
local same = require "spec.support.same"
local support = require "spec.support"

local function copy(...)
  return core.decode(core.encode(...))
end

local function assert_same(a, b)
  local ok, difference = same(a, b)
  assert(ok, difference)
end

-- How often something random is done: less often where everything is slow.
local function rounds(n)
  return math.max(10, n // support.time_scale)
end

-- The TransferError that encoding these values raises.
local function refusal(...)
  local ok, e = pcall(core.encode, ...)
  assert.is_false(ok)
  assert(concur.errors.is(e, "TransferError"), tostring(e))
  return e
end

-- Removes modules that a spec made.
local made_modules = {}

local function make_module(name, content)
  made_modules[#made_modules + 1] = name
  package.loaded[name] = content
  return content
end

after_each(function()
  for _, name in ipairs(made_modules) do
    package.loaded[name] = nil
    package.preload[name] = nil
  end
  made_modules = {}
end)

describe("scalars", function()
  it("keep integers and floats apart, with all 64 bits", function()
    local values = table.pack(copy(0, 1, -1, 127, 128, -128, -129, 2 ^ 53, 1 << 62, math.maxinteger,
      math.mininteger, 0.0, 1.0, 1e308, math.huge, -math.huge, 5e-324))
    assert_same({ n = 17, 0, 1, -1, 127, 128, -128, -129, 2 ^ 53, 1 << 62, math.maxinteger,
      math.mininteger, 0.0, 1.0, 1e308, math.huge, -math.huge, 5e-324 }, values)
    assert.equal("integer", math.type(values[2]))
    assert.equal("float", math.type(values[13]))
  end)

  it("keep the sign of zero, and NaN", function()
    assert.equal(-math.huge, 1 / copy(-0.0))
    assert.equal(math.huge, 1 / copy(0.0))
    local nan = copy(0 / 0)
    assert.is_true(nan ~= nan)
  end)

  it("keep nil and false, also at the end", function()
    assert.same({ n = 4, nil, false, nil, nil }, table.pack(copy(nil, false, nil, nil)))
    assert.equal(0, select("#", copy()))
  end)

  it("keep any bytes in strings of any length", function()
    local all = {}
    for byte = 0, 255 do
      all[#all + 1] = string.char(byte)
    end
    all = table.concat(all)
    for _, size in ipairs { 0, 1, 40, 41, 63, 64, 255, 256, 257, 65535, 65536, 1 << 20 } do
      local text = all:rep(size // 256 + 1):sub(1, size)
      assert.is_true(copy(text) == text, size)
      assert.is_true(copy({ text })[1] == text, size)
    end
  end)

  it("do not include addresses", function()
    local e = refusal({ id = debug.upvalueid(assert_same, 1) }) -- a light userdata
    assert.equal("argument 1.id", e.path)
    assert.matches("light userdata", e.message)
  end)
end)

describe("tables", function()
  it("keep cycles and shared parts, among all arguments", function()
    local shared = { "shared" }
    local t = { shared, shared, x = shared }
    t.self, t[t] = t, t
    local a, b = copy(t, shared)
    assert_same({ t, shared }, { a, b })
    assert.equal(a, a.self)
    assert.equal(a, a[a])
    assert.equal(b, a[1])
    assert.equal(b, a.x)
  end)

  it("keep every kind of key, and holes", function()
    local t = { 1, 2, nil, 4, [2 ^ 53] = "float", [-1] = "minus", [0] = "zero", [1.5] = "half",
      [true] = "true", [""] = "empty", ["a\0b"] = "zero byte", [math.huge] = "huge" }
    assert_same(t, copy(t))
    local sparse = {}
    for i = 1, 100 do
      sparse[i * i] = i
    end
    assert_same(sparse, copy(sparse))
    local backwards = {}
    for i = 100, 1, -1 do
      backwards[i] = i
    end
    assert_same(backwards, copy(backwards))
    assert.equal(100, #copy(backwards))
  end)

  it("are written with their sizes, so that the reader makes them as large as they get", function()
    local list = table.move({}, 1, 0, 1)
    for i = 1, 1000 do
      list[i] = i
    end
    local message = core.encode(list)
    collectgarbage()
    collectgarbage "stop"
    local before = collectgarbage "count"
    local result = core.decode(message)
    local used = (collectgarbage "count" - before) * 1024
    collectgarbage "restart"
    assert.equal(1000, #result)
    assert.is_true(used < 1000 * 16 + 1000, used) -- growing by doubling takes twice of that
  end)

  it("may be nested a million levels deep", function()
    local top = {}
    local bottom = top
    for _ = 1, 1000000 do
      bottom.next = {}
      bottom = bottom.next
    end
    bottom.value, bottom.top = "bottom", top
    local result = copy(top)
    local levels, at = 0, result
    while at.next do
      at, levels = at.next, levels + 1
    end
    assert.equal(1000000, levels)
    assert.equal("bottom", at.value)
    assert.equal(result, at.top)
    -- The path of what cannot cross down there is not a million names long.
    bottom.value = coroutine.create(print)
    local e = refusal(top)
    assert.is_true(#e.path < 1000)
    assert.matches("^argument 1%.next%.next.* %.%.%. .*next%.value$", e.path)
  end)

  it("may be nested through keys", function()
    local t = {}
    for _ = 1, 1000 do
      t = { [t] = true }
    end
    local at, levels = copy(t), 0
    while next(at) do
      at, levels = next(at), levels + 1
    end
    assert.equal(1000, levels)
  end)

  it("hold a long string once", function()
    local text = ("x"):rep(10000)
    local message = core.encode { text, text, { text } }
    assert.is_true(#message < 10100, #message)
    assert.same({ text, text, { text } }, core.decode(message))
  end)

  it("are copies: changes do not come back", function()
    local t = { list = { 1 } }
    local c = copy(t)
    c.list[1] = 2
    assert.equal(1, t.list[1])
  end)
end)

describe("functions", function()
  it("run with their upvalues by value", function()
    local n, t = 10, { 1 }
    local f = copy(function(x)
      n = n + x
      t[1] = n
      return n
    end)
    assert.equal(11, f(1))
    assert.equal(13, f(2))
    assert.equal(10, n)
    assert.equal(1, t[1])
  end)

  it("find the globals of their state as _ENV, wherever the upvalue stands", function()
    local first = 5 -- the only upvalue of a function without globals is the first one, too
    local f, g = copy(function() return first end, function() return first, print end)
    assert.equal(5, f())
    assert.same({ 5, print }, { g() })
    assert.equal(_G, copy(_G))
    assert.equal(_G, copy({ _G })[1])
  end)

  it("keep an _ENV of their own", function()
    local function make(_ENV) -- luacheck: ignore 212
      return function() return x end -- luacheck: ignore 113
    end
    assert.equal("own", copy(make { x = "own" })())
    -- One that falls back on another is the globals there, as it would be without the sandbox.
    local sandboxed = copy(make(setmetatable({ x = 1 }, { __index = _G })))
    local _, env = debug.getupvalue(sandboxed, 1)
    assert.equal(_G, env)
  end)

  it("may call themselves and each other", function()
    local function factorial(n)
      return n < 2 and 1 or n * factorial(n - 1)
    end
    assert.equal(3628800, copy(factorial)(10))

    local even, odd
    function even(n) return n == 0 or odd(n - 1) end
    function odd(n) return n ~= 0 and even(n - 1) end
    local e, o = copy(even, odd)
    assert.is_true(e(10))
    assert.is_false(o(10))
    assert_same({ even, odd }, { e, o })
  end)

  it("still share an upvalue", function()
    local n = 0
    local function increment() n = n + 1 end
    local function get() return n end
    local i, g = copy(increment, get)
    i()
    i()
    assert.equal(2, g())
    local unshared = copy(get)
    i()
    assert.equal(0, unshared())
    -- also when its value is found by name
    local say = print
    local function set(f) say = f end
    local function current() return say end
    local s, c = copy(set, current)
    s(error)
    assert.equal(error, c())
  end)

  it("may be nested deeply in each other", function()
    local f = function() return "bottom" end
    for _ = 1, 10000 do
      local inner = f
      f = function() return inner end
    end
    local g = copy(f)
    for _ = 1, 10000 do
      g = g()
    end
    assert.equal("bottom", g())
  end)

  it("may be stripped of their names", function()
    local n = 7
    local function f() return n, print end
    local stripped = load(string.dump(f, true))
    debug.setupvalue(stripped, 1, 7)
    debug.setupvalue(stripped, 2, _G)
    assert.same({ 7, print }, { copy(stripped)() })
  end)

  it("keep their identity within a message, and never become one", function()
    local function make() return function() return 1 end end
    local a, b = make(), make()
    local c, d, e = copy(a, b, a)
    assert.equal(c, e)
    assert.is_true(a == b or c ~= d)
    local names = { string.rep, string.sub }
    local functions = {}
    for i, name in ipairs(names) do
      functions[i] = function(...) return name(...) end
    end
    local rep, sub = copy(functions[1]), copy(functions[2])
    assert.equal("aa", rep("a", 2))
    assert.equal("b", sub("ab", 2))
    assert.equal("aa", rep("a", 2))
  end)

  it("start with the sender's values each time, whatever an earlier copy did", function()
    local rep = string.rep
    local function f(x)
      if x then rep = x end
      return rep
    end
    assert.equal(error, copy(f)(error))
    assert.equal(string.rep, copy(f)())
    local function own()
      _ENV = { changed = true } -- luacheck: ignore
    end
    copy(own)()
    assert.is_nil(changed) -- luacheck: ignore 113
  end)

  it("keep line numbers and names for tracebacks", function()
    local function fails() error "oops" end
    local ok, message = pcall(copy(fails))
    assert.is_false(ok)
    assert.matches("transfer_spec%.lua:%d+: oops", message)
  end)
end)

describe("modules", function()
  it("cross by name, as upvalues or wherever they are", function()
    local str, rep = string, string.rep
    local f = copy(function() return str, rep end)
    assert.same({ string, string.rep }, { f() })
    assert.equal(string, copy({ string })[1])
    assert.equal(print, copy(print))
    assert.equal(io.stdout.write and io.open, copy(io.open))
  end)

  it("are an error where there is no require, or a module is no table on the way", function()
    local message = core.encode_flat { lfs.dir, lfs }
    local result = support.run_lua([[
      local core = require "concur.core"
      local bytes, require = io.read "a", require
      local function decoded()
        local ok, e = pcall(core.decode, bytes)
        assert(not ok and e.kind == "TransferError")
        return e.message
      end
      _G.require = nil
      assert(decoded():find "module 'lfs' cannot be loaded.*no function 'require'")
      _G.require = require
      package.loaded.lfs = "no table"
      assert(decoded():find "module 'lfs' has no 'dir' on the receiving side")
    ]], { stdin = message })
    assert.equal(0, result.code, support.describe(result))
  end)

  it("are found after they were loaded, and required on the other side", function()
    copy(function() end) -- the names were looked up before
    local late = make_module("late_module", { f = function() end })
    package.preload["late_module"] = function() return late end
    local f = late.f
    local message = core.encode(function() return late, f end)
    package.loaded["late_module"] = nil
    local module, field = core.decode(message)()
    assert.equal(late, module)
    assert.equal(late, package.loaded["late_module"])
    assert.equal(late.f, field)
  end)

  it("are a clear error when the other side does not have them", function()
    make_module("missing_module", { f = function() end })
    local module = core.encode(package.loaded["missing_module"])
    local field = core.encode(package.loaded["missing_module"].f)
    package.loaded["missing_module"] = {}
    local ok, e = pcall(core.decode, field)
    assert.is_false(ok)
    assert.is_true(concur.errors.is(e, "TransferError"))
    assert.matches("module 'missing_module' has no 'f' on the receiving side", e.message)
    package.loaded["missing_module"] = nil
    ok, e = pcall(core.decode, module)
    assert.is_false(ok)
    assert.matches("module 'missing_module' cannot be loaded", e.message)
    assert.matches("not found", e.cause)
  end)

  it("are not found by a name that now means something else", function()
    local function old() return "old" end
    local module = make_module("changing_module", { f = old })
    copy(module.f)
    module.f = function() return "new" end
    assert.equal("old", copy(old)())
    assert.equal("new", copy(module.f)())
  end)

  it("that are plain data are copied as arguments, and meant as upvalues", function()
    local settings = make_module("settings_module", { verbose = false })
    settings.verbose = true
    local c = copy(settings)
    assert.not_equal(settings, c)
    assert.is_true(c.verbose)
    assert.equal(settings, copy(function() return settings end)())
  end)

  it("do not include the program's own globals", function()
    rawset(_G, "spec_global", function() return "by value" end)
    local f = copy(_G.spec_global) -- luacheck: ignore 143
    assert.not_equal(_G.spec_global, f) -- luacheck: ignore 143
    assert.equal("by value", f())
    rawset(_G, "spec_global", nil)
  end)

  it("contain C functions at some depth", function()
    make_module("deep_module", { a = { b = { c = coroutine.wrap(function() end) } } })
    local c = package.loaded["deep_module"].a.b.c
    assert.equal(c, copy(c))
  end)
end)

describe("classes", function()
  local Point

  before_each(function()
    Point = { __name = "Point" }
    Point.__index = Point
    function Point.new(x, y) return setmetatable({ x = x, y = y }, Point) end
    function Point.sum(p) return p.x + p.y end
  end)

  it("are copied by their fields when they are registered without functions", function()
    assert.equal(Point, concur.transferable("spec.Point", Point))
    local p = Point.new(1, 2)
    p.self, p.list = p, { p }
    local q = copy(p)
    assert.equal(Point, getmetatable(q))
    assert.equal(3, q:sum())
    assert.equal(q, q.self)
    assert.equal(q, q.list[1])
  end)

  it("are taken apart and put together by their functions", function()
    concur.transferable("spec.Point", Point, {
      encode = function(p) return p.x, nil, p.y end,
      decode = function(x, hole, y)
        assert(hole == nil)
        return Point.new(x * 10, y * 10)
      end,
    })
    local p = Point.new(1, 2)
    local q, r, list = copy(p, p, { Point.new(3, 4) })
    assert.equal(30, q:sum())
    assert.equal(q, r)
    assert.equal(70, list[1]:sum())
  end)

  it("may hold each other, and deep tables", function()
    concur.transferable("spec.Point", Point, {
      encode = function(p) return p.x end,
      decode = function(x) return Point.new(x, type(x) == "table" and x.depth or 0) end,
    })
    local top = { depth = 1 }
    local bottom = top
    for _ = 1, 1000 do
      bottom.next = {}
      bottom = bottom.next
    end
    bottom.value = "bottom"
    local p = Point.new(top, 1)
    for _ = 1, 180 do
      p = Point.new({ inner = p, depth = 1 }, 1)
    end
    local q = copy({ p })[1]
    for _ = 1, 180 do
      assert.equal(1, q.y) -- decode saw the whole table
      q = q.x.inner
    end
    local at = q.x
    while at.next do
      at = at.next
    end
    assert.equal("bottom", at.value)
    for _ = 1, 100 do
      p = Point.new(p, 0)
    end
    assert.matches("nested more than", refusal(p).message)
  end)

  it("name the class and the cause when a function fails", function()
    concur.transferable("spec.Point", Point, {
      encode = function(p) return p.x, error(p.x == "bad" and { code = 7 } or "no", 0) end,
      decode = function() end,
    })
    local e = refusal { p = Point.new("bad") }
    assert.equal("argument 1.p", e.path)
    assert.same({ code = 7 }, e.cause)
    assert.matches("encode function of spec.Point failed", e.message)

    concur.transferable("spec.Point", Point, {
      encode = function(p) return p.x end,
      decode = function(x) if x == 1 then error "bad decode" end end,
    })
    local ok, err = pcall(copy, Point.new(1))
    assert.is_false(ok)
    assert.matches("decode function of spec.Point failed: .*bad decode", err.message)
    ok, err = pcall(copy, Point.new(2))
    assert.is_false(ok)
    assert.matches("returned nil", err.message)

    concur.transferable("spec.Point", Point, {
      encode = function() return table.unpack({}, 1, 256) end,
      decode = function() return {} end,
    })
    e = refusal(Point.new(1, 2))
    assert.matches("encode function of spec.Point returned more than 255 values", e.message)
  end)

  it("are refused where their class has no decode function", function()
    concur.transferable("spec.Point", Point, {
      encode = function(p) return p.x end,
      decode = function(x) return Point.new(x, x) end,
    })
    local message = core.encode_flat(Point.new(1, 2))
    concur.transferable("spec.Point", Point)
    local ok, e = pcall(core.decode, message)
    assert.is_false(ok)
    assert.is_true(concur.errors.is(e, "TransferError"))
    assert.matches("'spec.Point' has no decode function on the receiving side", e.message)
  end)

  it("are refused where the module of their class fails to load, with the cause", function()
    concur.transferable("spec_broken.Circle", Point)
    local message = core.encode_flat(Point.new(1, 2))
    local result = support.run_lua([[
      package.preload.spec_broken = function() error({ "broken" }) end
      local ok, e = pcall(require "concur.core".decode, io.read "a")
      assert(not ok and e.kind == "TransferError" and e.cause[1] == "broken")
      assert(e.message:find "module of class 'spec_broken.Circle' cannot be loaded")
    ]], { stdin = message })
    assert.equal(0, result.code, support.describe(result))
  end)

  it("cannot refer to themselves in what they encode", function()
    concur.transferable("spec.Point", Point, {
      encode = function(p) return { p } end,
      decode = function(t) return t end,
    })
    local e = refusal(Point.new(1, 2))
    assert.equal("argument 1 (spec.Point, encoded value 1)[1]", e.path)
    assert.matches("its own encode function", e.message)
  end)

  it("that change what is being encoded do not confuse it", function()
    local items = {}
    concur.transferable("spec.Point", Point, {
      encode = function()
        local moved = table.move(items, 1, #items, 1, {})
        for i in ipairs(items) do items[i] = nil end
        collectgarbage()
        collectgarbage()
        return moved
      end,
      decode = function(moved) return { moved = moved } end,
    })
    for round = 1, 20 do
      for i = 1, 10 do items[i] = { i, round } end
      local first, rest = copy(Point.new(), { { round }, { round } })
      assert_same({ moved = { { 1, round }, { 2, round }, { 3, round }, { 4, round },
        { 5, round }, { 6, round }, { 7, round }, { 8, round }, { 9, round },
        { 10, round } } }, first)
      assert_same({ { round }, { round } }, rest)
    end
    assert.is_true(collectgarbage "isrunning")
  end)

  it("are found by requiring the module that their name suggests", function()
    concur.transferable("spec_shapes.Circle", Point)
    local message = core.encode_flat(Point.new(1, 2))
    local directory = support.tmpdir()
    support.write_file(directory .. "/spec_shapes.lua", [[
      local concur = require "concur"
      local Circle = { sum = function(p) return p.x + p.y end }
      Circle.__index = Circle
      concur.transferable("spec_shapes.Circle", Circle)
      return { Circle = Circle }
    ]])
    local code = ("package.path = %q .. package.path\n"):format(directory .. "/?.lua;") .. [[
      io.stdout:write(require "concur.core".decode(io.read "a"):sum())
    ]]
    assert.equal("3", support.run_lua(code, { stdin = message }).stdout)
    local result = support.run_lua([[
      local ok, e = pcall(require "concur.core".decode, io.read "a")
      assert(not ok)
      io.stdout:write(e.kind, ": ", e.message)
    ]], { stdin = message })
    assert.matches("TransferError: class 'spec_shapes.Circle' is not registered", result.stdout)
  end)

  it("may be of userdata, which then need the functions", function()
    local output = support.check_lua [[
      local concur, core = require "concur", require "concur.core"
      local File = getmetatable(io.stdout)
      concur.transferable("File", File)
      local ok, e = pcall(core.encode, io.stdout)
      assert(not ok and e.message:find("needs encode and decode functions", 1, true), e)
      local names = { [io.stdout] = "stdout", [io.stderr] = "stderr" }
      concur.transferable("File", File, {
        encode = function(file) return names[file] end,
        decode = function(name) return io[name] end,
      })
      local out, list = core.decode(core.encode(io.stdout, { io.stderr, io.stderr }))
      assert(list[1] == io.stderr and list[2] == io.stderr)
      out:write("written")
    ]]
    assert.equal("written", output)
  end)

  it("check what they are registered with", function()
    local function fails(pattern, ...)
      local ok, message = pcall(concur.transferable, ...)
      assert.is_false(ok)
      assert.matches(pattern, tostring(message))
    end
    fails("bad argument #1", nil, {})
    fails("1 to 255", "", {})
    fails("bad argument #2.*table expected", "x", 1)
    fails("come together", "x", {}, { encode = print })
    fails("must be a function", "x", {}, { encode = 1, decode = print })
    fails("codec", "x", {}, { codec = 1 })
  end)
end)

describe("__transfer", function()
  it("= true copies the fields of a class that is a module, or in one", function()
    local Module = make_module("spec_class", { __transfer = true })
    Module.__index = Module
    Module.Inner = { __transfer = true, name = "inner" }
    Module.Inner.__index = Module.Inner
    local a, b = copy(setmetatable({ 1 }, Module), setmetatable({ 2 }, Module.Inner))
    assert.equal(Module, getmetatable(a))
    assert.equal("inner", b.name)
    assert.equal(2, b[1])
    local hidden = setmetatable({}, { __transfer = true, __name = "Hidden" })
    assert.matches("metatable of Hidden .* concur.transferable", refusal({ h = hidden }).message)
  end)

  it("= true is refused where the metatable has no __transfer", function()
    local Module = make_module("spec_class", { __transfer = true })
    local message = core.encode_flat(setmetatable({ 1 }, Module))
    Module.__transfer = nil
    local ok, e = pcall(core.decode, message)
    assert.is_false(ok)
    assert.is_true(concur.errors.is(e, "TransferError"))
    assert.matches("no __transfer on the receiving side", e.message)
  end)

  it("as a function returns a function and its arguments", function()
    local mt = {}
    mt.__transfer = function(self)
      return function(n) return { doubled = 2 * n } end, self.n
    end
    local object = setmetatable({ n = 21 }, mt)
    local a, b = copy(object, { object })
    assert.equal(42, a.doubled)
    assert.equal(a, b[1])
    mt.__transfer = function() return "no function" end
    assert.matches("must return a function", refusal(object).message)
    mt.__transfer = "yes"
    assert.matches("must be true or a function", refusal(object).message)
    mt.__transfer = function() error "broken" end
    assert.matches("broken", refusal(object).message)
  end)
end)

describe("what cannot cross", function()
  it("is named with its path", function()
    local cfg = { socket = io.stdout }
    local e = refusal(function() return cfg end)
    assert.equal("upvalue 'cfg'.socket", e.path)
    assert.matches("^upvalue 'cfg'%.socket: userdata %(FILE%*%) cannot cross", e.message)

    local thread = coroutine.create(print)
    local function path(...) return refusal(...).path end
    assert.equal("argument 1", path(thread))
    assert.equal("argument 3.a[2].b", path(1, {}, { a = { 0, { b = thread } } }))
    assert.equal([[argument 1["two words"][1.5][true] ]], path {
      ["two words"] = { [1.5] = { [true] = thread } } } .. " ")
    assert.equal("argument 1[a key]", path { [thread] = 1 })
    assert.equal([=[argument 1[""].x["1st"]["a?b?"][false]]=], path { [""] = { x = { ["1st"] = {
      ['a"b\n'] = { [false] = thread } } } } })
    assert.equal('argument 1["' .. ("k"):rep(40) .. '..."][-3]',
      path { [("k"):rep(41)] = { [-3] = thread } })
    assert.equal("argument 1[table]", path { [{}] = thread })
    local deep = thread
    for _ = 1, 100 do deep = { ["some name"] = deep } end
    assert.equal(605, #path(deep)) -- the beginning and the end
    assert.matches('^argument 1%["some name"%].*some.* %.%.%. .*%["some name"%]$', path(deep))
    local function inner() return thread end
    assert.equal("upvalue 'inner', upvalue 'thread'", path(function() return inner end))
    assert.equal("argument 2.f, upvalue 'thread'", path(1, { f = inner }))
  end)

  it("comes with advice", function()
    local function message(value) return refusal({ value }).message end
    assert.matches("coroutine cannot cross", message(coroutine.create(print)))
    assert.matches("weak table", message(setmetatable({}, { __mode = "k" })))
    assert.matches("table with a metatable %(Car%).*concur.transferable",
      message(setmetatable({}, { __name = "Car" })))
    assert.matches("C function is in no loaded module", message(coroutine.wrap(print)))
    assert.matches("open the file inside", message(io.stdout))
    local _, directory = lfs.dir(".")
    assert.matches("%(directory metatable%) cannot cross; its class can be registered",
      message(directory))
    directory:close()
    assert.matches("without a metatable", message(debug.setmetatable(directory, nil)))
    assert.matches("wait for it and send its result", message(concur.Future()))
    assert.matches("concur.Channel", message(concur.Lock()))
    local task = concur.spawn(function() end)
    assert.matches("wait for it and send its result", message(task))
    task:result()
  end)

  it("includes more values than a stack can hold", function()
    local ok, e = pcall(core.encode, {}, table.unpack({}, 1, 600000))
    assert.is_false(ok)
    assert.matches("stack overflow", tostring(e))
  end)

  it("leaves no trace", function()
    local before = core.counters()
    collectgarbage()
    collectgarbage()
    local kb = collectgarbage "count"
    for _ = 1, rounds(1000) do
      refusal({ ("x"):rep(1000), concur.SharedBuffer(8), { coroutine.create(print) } })
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(collectgarbage "count" < kb + 100)
    assert.same(before, core.counters())
  end)
end)

describe("library errors", function()
  it("arrive as what they are, without handles of the sender's loop", function()
    local e = concur.errors.new("ErrorGroup", "two failed", {
      errors = { concur.errors.new("Closed", "closed"), "text" },
      tasks = { concur.Future() },
      future = concur.Future(),
      cause = concur.errors.new("OSError", "refused", { code = "ECONNREFUSED" }),
    })
    local c = copy({ e })[1]
    assert.is_true(concur.errors.is(c, "ErrorGroup"))
    assert.is_true(concur.errors.is(c, "OSError"))
    assert.is_true(concur.errors.is(c.errors[1], "Closed"))
    assert.equal("text", c.errors[2])
    assert.equal("ECONNREFUSED", c.cause.code)
    assert.is_nil(c.tasks)
    assert.is_nil(c.future)
  end)
end)

describe("the size limit", function()
  local usual

  before_each(function() usual = core.transfer_limit() end)
  after_each(function() core.transfer_limit(usual) end)

  it("is 1 GiB unless set, and gives a TransferError", function()
    assert.equal(1 << 30, usual)
    assert.equal(usual, core.transfer_limit(4096))
    assert.equal(4096, core.transfer_limit())
    assert.equal(("x"):rep(4000), copy(("x"):rep(4000)))
    local e = refusal({ a = { ("x"):rep(2000), ("y"):rep(2000), ("z"):rep(200) } })
    assert.matches("limit of 4096 bytes", e.message)
    assert.matches("^argument 1%.a", e.path)
    local list = {}
    for i = 1, 1000 do list[i] = i * 1000 end
    assert.matches("limit of 4096 bytes", refusal(list).message)
    local text = ("x"):rep(1000)
    assert.matches("limit", refusal(text .. 1, text .. 2, text .. 3, text .. 4, text .. 5).message)
  end)

  it("is checked", function()
    assert.has_error(function() core.transfer_limit(10) end)
    assert.has_error(function() core.transfer_limit(2 ^ 40) end)
    assert.has_error(function() core.transfer_limit(0 / 0) end)
  end)
end)

describe("caches", function()
  it("let go of functions, and stay small", function()
    local gone = setmetatable({}, { __mode = "k" })
    local function burst(size)
      for i = 1, size do
        local f = load("return " .. i)
        gone[f] = true
        copy(f, function() return i end)
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage "count"
    end
    burst(2000)
    local before = burst(2000)
    local after = burst(4000)
    assert.is_true(after < before + 200, after - before) -- 4,000 kept would be 600 and more
    assert.is_nil(next(gone))
  end)
end)

describe("damaged messages", function()
  local function survives(bytes)
    local ok, e = pcall(core.decode, bytes)
    if not ok then
      assert(concur.errors.is(e, "TransferError") or tostring(e):find "memory", tostring(e))
    end
  end

  local samples = {}

  setup(function()
    local n = 0
    local function count() n = n + 1 return n, count, string.rep end
    local t = { 1, 2.5, "three", { x = true }, [10] = ("long"):rep(20) }
    t.self, t.again = t, t[10]
    samples = {
      core.encode_flat(1, 2.5, "x", nil, true),
      core.encode_flat(t, count, count),
      core.encode_flat(concur.errors.new("Closed", "x")),
    }
  end)

  it("are refused when they end early", function()
    for _, bytes in ipairs(samples) do
      for size = 0, #bytes - 1 do
        local ok, e = pcall(core.decode, bytes:sub(1, size))
        assert.is_false(ok)
        assert.is_true(concur.errors.is(e, "TransferError"))
      end
      assert.is_false((pcall(core.decode, bytes .. "\0")))
    end
  end)

  it("do no harm when any bit is wrong", function()
    for _, bytes in ipairs(samples) do
      for i = 1, #bytes do
        for bit = 0, 7, support.time_scale > 2 and 3 or 1 do
          survives(bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ (1 << bit))
            .. bytes:sub(i + 1))
        end
      end
    end
  end)

  it("do no harm when they are noise", function()
    support.seed()
    local start = samples[1]:sub(1, 8)
    for _ = 1, rounds(5000) do
      local bytes = {}
      for i = 1, math.random(0, 60) do
        bytes[i] = string.char(math.random(0, 255))
      end
      survives(start .. table.concat(bytes))
    end
  end)

  it("cannot ask for more memory than they could fill", function()
    -- A table that says it has 2^31 - 1 fields.
    local bytes = core.encode_flat {}
    assert.equal(17, #bytes)
    collectgarbage()
    local before = collectgarbage "count"
    survives(bytes:sub(1, 9) .. string.pack("=I4I4", 0x7FFFFFFF, 0x7FFFFFFF))
    assert.is_true(collectgarbage "count" < before + 1000)
  end)
end)

-- Random values --------------------------------------------------------------------------------

local function random_bytes()
  local size = math.random(10) == 1 and math.random(0, 2000) or math.random(0, 20)
  local bytes = {}
  for i = 1, size do
    bytes[i] = string.char(math.random(0, 255))
  end
  return table.concat(bytes)
end

local scalars = {
  function() return math.random(-200, 200) end,
  function() return math.random(math.mininteger, math.maxinteger) end,
  function() return math.random() * 2 ^ math.random(-1000, 1000) end,
  function() return ({ 0.0, -0.0, math.huge, -math.huge, 1.0 })[math.random(5)] end,
  function() return math.random(2) == 1 end,
  random_bytes,
}

local function random_scalar()
  return scalars[math.random(#scalars)]()
end

-- Makes a random value. `pool` holds what was made before, to be shared and to close cycles.
local random_value

local function random_table(pool, size)
  local t = {}
  pool[#pool + 1] = t
  for i = 1, math.random(0, 6) do
    t[i] = random_value(pool, size // 2)
  end
  for _ = 1, math.random(0, 6) do
    t[random_scalar()] = random_value(pool, size // 2)
  end
  if math.random(8) == 1 then
    t[pool[math.random(#pool)]] = random_value(pool, size // 2)
  end
  return t
end

local function random_function(pool, size)
  local a, b, self = random_value(pool, size // 2), random_value(pool, size // 2), nil
  local module, field = string, table.concat
  local made = ({
    function()
      return function() return a, b end, function(x) a = x end
    end,
    function()
      self = function() return self, b, print end
      return self, function() return self end
    end,
    function()
      return function() return module, field end, function() return 1 end
    end,
  })[math.random(3)]
  local f, g = made()
  pool[#pool + 1] = f
  pool[#pool + 1] = g
  return f
end

function random_value(pool, size)
  local choice = math.random(10)
  if size < 1 or choice <= 4 then
    return random_scalar()
  elseif choice <= 6 and #pool > 0 then
    return pool[math.random(#pool)]
  elseif choice <= 8 then
    return random_table(pool, size)
  end
  return random_function(pool, size)
end

local function random_root()
  return random_table({}, math.random(200))
end

describe("random values", function()
  it("are the same after a round trip", function()
    support.seed()
    for _ = 1, rounds(300) do
      local value = random_root()
      local result = copy(value)
      assert_same(value, result)
      -- Twice, since caches are now full.
      assert_same(value, copy(value))
    end
  end)

  it("are the same after a way through another state of this process", function()
    support.seed()
    local pool <close> = concur.ThreadPoolExecutor(1)
    for _ = 1, rounds(200) do
      local value = random_root()
      assert_same(value, pool:submit(function(v) return v end, value):result())
    end
  end)

  it("are the same after a way through another process", function()
    support.seed()
    local values, parts = {}, {}
    for i = 1, 50 do
      values[i] = random_root()
      parts[i] = string.pack("s4", core.encode_flat(values[i]))
    end
    local output = support.check_lua([[
      local core = require "concur.core"
      local input, at = io.read "a", 1
      while at <= #input do
        local message
        message, at = string.unpack("s4", input, at)
        io.write(string.pack("s4", core.encode_flat(core.decode(message))))
      end
    ]], { stdin = table.concat(parts) })
    local at = 1
    for i = 1, #values do
      local message
      message, at = string.unpack("s4", output, at)
      assert_same(values[i], core.decode(message))
    end
  end)
end)

-- Out of memory ---------------------------------------------------------------------------------

-- What runs in the test host: the n-th allocation of a transfer fails, for every n.
local OUT_OF_MEMORY = [[
  local scenario = ...
  local n = 1
  repeat
    local failed, ok, message = testhost.run(scenario, n)
    assert(ok or message:find("not enough memory", 1, true), message)
    n = n + 1
  until failed == 0
  assert(n > 300, n)
]]

-- A bit of everything. Afterwards it works as if nothing had been.
local SCENARIO = [[
  local core = require "concur.core"
  local pair = {}
  core.transferable("pair", pair, {
    encode = function(p) return p[1], p[2] end,
    decode = function(a, b) return setmetatable({ a, b }, pair) end,
  })
  local function transfer()
    local cycle = { 1, 2, 3, a = "b", { x = 1 } }
    cycle.self, cycle[cycle] = cycle, cycle
    local deep = {}
    local bottom = deep
    for _ = 1, 230 do
      bottom.next = {}
      bottom = bottom.next
    end
    local n = 0
    local function increment() n = n + 1 return n end
    local function get() return n, increment end
    local long = ("z"):rep(700)
    local r = table.pack(core.decode(core.encode(cycle, deep, increment, get, string.rep, long,
      { long, long .. 1 }, setmetatable({ 1, deep }, pair), function() return 1 end,
      core.SharedBuffer("abc"))))
    assert(r.n == 10 and r[1].self == r[1] and r[8][2].next.next and r[10]:tostring() == "abc")
    local ok, e = pcall(core.encode, { x = { coroutine.create(print) } })
    assert(not ok)
    if type(e) == "string" then error(e, 0) end
    assert(e.path == "argument 1.x[1]")
  end
  transfer()
  arm()
  local ok, e = pcall(transfer)
  disarm()
  transfer()
  if not ok then error(tostring(e), 0) end
]]

describe("running out of memory", function()
  it("at any point is an error that leaves nothing behind", function()
    local directory = support.tmpdir()
    support.write_file(directory .. "/driver.lua", OUT_OF_MEMORY)
    local result = support.execute({ support.host, directory .. "/driver.lua", SCENARIO }, {
      timeout = 60,
      env = {
        LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
        LUA_CPATH = support.build .. "/?.so;;",
      },
    })
    assert.equal(0, result.code, support.describe(result))
  end)
end)
