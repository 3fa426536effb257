-- The rock: `luarocks make` installs it into any tree, and it works from there with no build tree
-- around.
local installed = require "spec.support.installed"
local support = require "spec.support"

local ROCKSPEC = installed.ROCKSPEC

local function load_rockspec()
  local rockspec = {}
  assert(loadfile(support.root .. "/" .. ROCKSPEC, "t", rockspec))()
  return rockspec
end

describe("the rockspec", function()
  local build = load_rockspec().build

  it("lists the sources of the C core, all of them", function()
    local listed = build.modules["concur.core"].sources
    table.sort(listed)
    assert.same(support.files("csrc", "%.c$"), listed)
  end)

  it("lists the Lua modules, all of them", function()
    local expected, listed = {}, {}
    for _, path in ipairs(support.files("lua", "%.lua$")) do
      local name = path:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
      expected[name] = path
    end
    for name, module in pairs(build.modules) do
      if type(module) == "string" then
        listed[name] = module
      end
    end
    assert.same(expected, listed)
  end)

  it("is the only one at the root, so that `luarocks make` needs no argument", function()
    local found = {}
    for name in require("lfs").dir(support.root) do
      found[#found + 1] = name:match "^.*%.rockspec$"
    end
    assert.same({ ROCKSPEC }, found)
  end)

  it("allows Lua 5.4 and 5.5 and needs no other rock", function()
    assert.same({ "lua >= 5.4, < 5.6" }, load_rockspec().dependencies)
  end)
end)

describe("the installed rock", function()
  it("works from any directory, with no build tree around", function()
    local tree = installed.tree()
    local result = installed.run([[
      local concur = require "concur"
      print(concur.run(function()
        local names = {}
        for i, job in ipairs { 3, 1, 2 } do
          names[i] = concur.spawn(function() concur.sleep(job / 1000) return job end)
        end
        return concur.gather(table.unpack(names))
      end))
      print(package.searchpath("concur.core", package.cpath))]])
    assert.equal(0, result.code, support.describe(result))
    assert.equal("3\t1\t2\n" .. tree .. "/lib/lua/5.4/concur/core.so\n", result.stdout)

    -- Each module by itself: nothing was left out.
    for name, module in pairs(load_rockspec().build.modules) do
      if type(module) == "string" then
        local required = installed.run(("require %q"):format(name))
        assert.equal(0, required.code, support.describe(required))
      end
    end

    local symbols = support.execute { "nm", "-D", "--defined-only",
      tree .. "/lib/lua/5.4/concur/core.so" }
    for name in symbols.stdout:gmatch " [TDB] ([%w_]+)" do
      assert.is_truthy(name:find "^luaopen_" or name:find "^_", "the rock exports " .. name)
    end
  end)
end)
