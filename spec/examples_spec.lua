-- Every example runs to its end by itself, in bounded time.
--
-- An example that needs arguments to stay small says so in its first lines: `-- Test: ARGUMENTS`.
-- A file that another example requires is a module, and runs there.
local support = require "spec.support"

local MAX_SECONDS = 30

local function arguments_of(path)
  local arguments = {}
  local line = support.read_file(path):match "\n%-%- Test: ([^\n]*)"
  for word in (line or ""):gmatch "%S+" do
    arguments[#arguments + 1] = word
  end
  return arguments
end

local function programs()
  local paths, required = support.files("examples", "%.lua$"), {}
  for _, path in ipairs(paths) do
    for name in support.read_file(path):gmatch "require%s*%(?[\"']([%w_.]+)[\"']" do
      required[name] = true
    end
  end
  local found = {}
  for _, path in ipairs(paths) do
    if not required[path:match "([^/]+)%.lua$"] then
      found[#found + 1] = path
    end
  end
  return found
end

describe("the example", function()
  local paths = programs()

  for _, path in ipairs(paths) do
    it(path .. " runs", function()
      local result = support.run_file(path, { args = arguments_of(path), timeout = MAX_SECONDS })
      assert.equal(0, result.code, support.describe(result))
      assert.is_true(#result.stdout > 0, "it printed nothing")
      assert.is_nil(result.stderr:find "stack traceback", support.describe(result))
    end)
  end

  it("list is not empty", function()
    assert.is_true(#paths > 0)
  end)
end)
