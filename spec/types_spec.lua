-- types/ is generated, complete, and valid.
local concur = require "concur"
local support = require "spec.support"

-- Classes that no user names: a job's future is a Future; a Watch is inside
-- as_completed, a ParkingLot inside the locks.
local SAME_AS = {
  ["concur.JobFuture"] = "concur.Future",
  ["concur.ProcessPoolExecutor"] = "concur.ThreadPoolExecutor",
  ["concur.Task"] = "concur.Future",
}
local INTERNAL = { ["concur.Watch"] = true, ["concur.ParkingLot"] = true }

-- Every `function X.y` and `function X:y` of the generated files, by the class or module of X.
local function documented()
  local functions = {}
  for _, path in ipairs(support.files("types", "%.lua$")) do
    local class_of, class = {}, nil
    for line in io.lines(support.root .. "/" .. path) do
      class = line:match "^%-%-%-@class ([%w_.]+)" or class
      local owner = line:match "^local ([%w_]+) = {}"
      if owner then
        class_of[owner], class = class, nil
        functions[class_of[owner]] = functions[class_of[owner]] or {}
      end
      local of, name = line:match "^function ([%w_]+)[.:]([%w_]+)%("
      if of then
        assert(class_of[of], path .. ": " .. of .. " has no ---@class")
        functions[class_of[of]][name] = true
      end
    end
  end
  return functions
end

-- What `concur` has, with what it loads on first use.
local function names_of_concur()
  local names = {}
  for name in pairs(concur) do
    names[#names + 1] = name
  end
  local load_field = getmetatable(concur).__index
  for i = 1, math.huge do
    local upvalue, value = debug.getupvalue(load_field, i)
    if not upvalue then
      break
    elseif upvalue == "lazy" then
      for name in pairs(value) do
        names[#names + 1] = name
      end
    end
  end
  assert(#names > 40, "the names loaded on first use were not found")
  return names
end

-- The public classes that live in this state: name to methods.
local function classes()
  local found = {}
  for _, value in pairs(debug.getregistry()) do
    local name = type(value) == "table" and rawget(value, "__name")
    if type(name) == "string" and name:find "^concur%.%u" then
      local index = rawget(value, "__index")
      found[name] = type(index) == "table" and index or {}
    end
  end
  return found
end

describe("types/", function()
  it("is what the annotations in the sources say", function()
    local result = support.execute { support.lua, "scripts/types.lua", "--check" }
    assert.equal(0, result.code, result.stderr)
  end)

  it("is valid Lua", function()
    local paths = support.files("types", "%.lua$")
    assert.is_true(#paths > 1)
    for _, path in ipairs(paths) do
      assert(loadfile(path, "t"))
    end
  end)

  it("describes every public function of concur", function()
    local functions, missing = documented(), {}
    for _, name in ipairs(names_of_concur()) do
      if type(concur[name]) == "function" and not functions.concur[name] then
        missing[#missing + 1] = "concur." .. name
      end
    end
    table.sort(missing)
    assert.same({}, missing)
  end)

  it("describes every public function of the modules", function()
    local functions, missing = documented(), {}
    for module in pairs(functions) do
      local loaded, value = pcall(require, module)
      if loaded and type(value) == "table" and module ~= "concur" then
        for name, member in pairs(value) do
          if type(member) == "function" and not name:find "^_" and not functions[module][name] then
            missing[#missing + 1] = module .. "." .. name
          end
        end
      end
    end
    table.sort(missing)
    assert.same({}, missing)
  end)

  it("describes every method of every class", function()
    local functions, missing, count = documented(), {}, 0
    local function inherited(class, name)
      if functions[class] and functions[class][name] then
        return true
      end
      return SAME_AS[class] and inherited(SAME_AS[class], name)
    end
    for class, methods in pairs(classes()) do
      count = count + 1
      for name in pairs(methods) do
        if not name:find "^_" and not INTERNAL[class] and not inherited(class, name) then
          missing[#missing + 1] = class .. ":" .. name
        end
      end
    end
    assert.is_true(count > 3)
    table.sort(missing)
    assert.same({}, missing)
  end)
end)
