-- The C core keeps its layers (csrc/LAYERS), and what it must not show stays hidden.
local support = require "spec.support"

-- csrc/LAYERS: the rank (line) and the layer number of each source.
local function read_layers()
  local layers, rank = {}, 0
  for line in io.lines(support.root .. "/csrc/LAYERS") do
    local number, names = line:match "^(%d+)%s+(.+)$"
    if number then
      rank = rank + 1
      for name in names:gmatch "%S+" do
        assert(not layers[name], name .. " stands twice in csrc/LAYERS")
        layers[name] = { rank = rank, layer = tonumber(number) }
      end
    end
  end
  return layers
end

local function includes(path)
  local own, system = {}, {}
  for line in io.lines(support.root .. "/" .. path) do
    own[#own + 1] = line:match '^%s*#%s*include%s+"([^"]+)"'
    system[#system + 1] = line:match "^%s*#%s*include%s+<([^>]+)>"
  end
  return own, system
end

local function subject(path)
  return path:match "([^/]+)%.[ch]$"
end

local PRAGMAS = "^(.-\n)#pragma GCC visibility push%(hidden%)(\n.*\n)"
  .. "#pragma GCC visibility pop\n(.*)$"

local LUA_HEADERS = { ["lua.h"] = true, ["lauxlib.h"] = true, ["lualib.h"] = true }

local sources = support.files("csrc", "%.[ch]$")
local layers = read_layers()

-- Does the file see Lua, itself or through a header?
local seen = {}
local function sees_lua(path)
  if seen[path] == nil then
    seen[path] = false -- also ends a cycle, which another spec reports
    local own, system = includes(path)
    for _, header in ipairs(system) do
      seen[path] = seen[path] or LUA_HEADERS[header] == true
    end
    for _, header in ipairs(own) do
      seen[path] = sees_lua("csrc/" .. header) or seen[path]
    end
  end
  return seen[path]
end

describe("the C core", function()
  it("has sources, and each is in csrc/LAYERS", function()
    assert.is_true(#sources > 10)
    local known = {}
    for _, path in ipairs(sources) do
      known[subject(path)] = true
      assert.is_truthy(layers[subject(path)], path .. " is not in csrc/LAYERS")
    end
    for name in pairs(layers) do
      assert.is_true(known[name], "csrc/LAYERS names " .. name .. ", which does not exist")
    end
  end)

  it("includes only what lies lower or on the same line", function()
    local wrong = {}
    for _, path in ipairs(sources) do
      local own = layers[subject(path)]
      for _, header in ipairs((includes(path))) do
        local other = layers[subject(header)]
        if not other or other.rank > own.rank then
          wrong[#wrong + 1] = path .. " includes " .. header
        end
      end
    end
    assert.same({}, wrong)
  end)

  it("has no cycle among its headers", function()
    local state = {}
    local function visit(path, trail)
      assert.are_not.equal("open", state[path], "cycle: " .. trail .. " > " .. path)
      if state[path] then
        return
      end
      state[path] = "open"
      for _, header in ipairs((includes(path))) do
        visit("csrc/" .. header, trail .. " > " .. path)
      end
      state[path] = "done"
    end
    for _, path in ipairs(support.files("csrc", "%.h$")) do
      visit(path, "")
    end
  end)

  it("keeps Lua out of layer 0, whose code runs on any thread", function()
    local checked = 0
    for _, path in ipairs(sources) do
      if layers[subject(path)].layer == 0 then
        checked = checked + 1
        assert.is_false(sees_lua(path), path .. " sees lua.h")
      end
    end
    assert.is_true(checked > 5)
  end)

  it("never uses the thread pool of libuv", function()
    for _, path in ipairs(sources) do
      local text = support.read_file(support.root .. "/" .. path):gsub("/%*.-%*/", "")
      for _, name in ipairs { "uv_queue_work", "uv_getaddrinfo", "uv_getnameinfo", "uv_random" } do
        assert.is_nil(text:find(name .. "%s*%("), path .. " calls " .. name)
      end
    end
  end)

  it("writes nothing to stdout and never aborts, but in a debug build", function()
    for _, path in ipairs(sources) do
      local text = support.read_file(support.root .. "/" .. path):gsub("/%*.-%*/", "")
        :gsub('"[^"\n]*"', '""'):gsub("\n#ifdef CONCUR_DEBUG\n.-\n#else\n", "\n")
      for _, name in ipairs { "printf", "puts", "putchar", "abort", "exit" } do
        assert.is_nil(text:find("[^%w_.>]" .. name .. "%s*%("), path .. " calls " .. name)
      end
    end
  end)

  it("hides all that its headers declare, also where the compiler is not told to", function()
    -- luarocks compiles the rock without -fvisibility=hidden.
    for _, path in ipairs(support.files("csrc", "%.h$")) do
      local text = support.read_file(support.root .. "/" .. path):gsub("/%*.-%*/", "")
      local before, inside, after = text:match(PRAGMAS)
      assert(before, path .. " lacks the pair of visibility pragmas")
      assert.is_nil(before:find "%f[%w_]concur_[%w_]+%(", path .. " declares before the pair")
      assert.is_nil(after:find "%f[%w_]concur_", path .. " declares after the pair")
      assert.is_nil(inside:find "\n#include", path .. ": an #include inside the pair")
    end
  end)

  it("exports luaopen_ functions and nothing else", function()
    local result = support.execute { "nm", "-D", "--defined-only", support.build
      .. "/concur/core.so" }
    assert.equal(0, result.code, support.describe(result))
    local exported = {}
    for name in result.stdout:gmatch " [TDBRVWi] ([%w_.]+)" do
      if not name:find "^_" then -- of the compiler's own: _init, __asan_..., __gcov_...
        exported[#exported + 1] = name
      end
    end
    assert.same({ "luaopen_concur_core" }, exported)
  end)
end)

describe("the Lua modules", function()
  it("require each other without a cycle", function()
    local requires = {}
    for _, path in ipairs(support.files("lua/concur", "%.lua$")) do
      local name = path:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
      requires[name] = {}
      for line in io.lines(support.root .. "/" .. path) do
        -- At the start of a line: what is required later, inside a function, makes no cycle.
        table.insert(requires[name], line:match "^local.*require%s*%(?[\"'](concur[%w_.]*)")
      end
    end
    local state = {}
    local function visit(name, trail)
      assert.are_not.equal("open", state[name], "cycle: " .. trail .. " > " .. name)
      if state[name] then
        return
      end
      state[name] = "open"
      for _, other in ipairs(requires[name] or {}) do
        visit(other, trail .. " > " .. name)
      end
      state[name] = "done"
    end
    for name in pairs(requires) do
      visit(name, "")
    end
  end)

  it("set no globals", function()
    local code = [[
      local known = {}
      for name in pairs(_G) do known[name] = true end
      for _, name in ipairs(arg) do require(name) end
      for name in pairs(_G) do
        if not known[name] then print(name) end
      end]]
    local names = {}
    for _, path in ipairs(support.files("lua/concur", "%.lua$")) do
      names[#names + 1] = path:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", "")
        :gsub("/", ".")
    end
    assert.equal("", support.check_lua(code, { args = names }))
  end)
end)
