-- The benchmarks run, report what is missing, and refuse what they do not know. How fast anything
-- is does not matter here.
local support = require "spec.support"

local function bench(args, env)
  env = env or {}
  env.CONCUR_BENCH_QUICK = "1"
  env.CONCUR_BUILD = support.build
  env.CONCUR_LUA = support.lua
  env.ASAN_OPTIONS = "detect_leaks=0" -- the C programs that measure the limits free nothing
  return support.run_file("bench/run.lua", { args = args, env = env, timeout = 120 })
end

describe("bench/run.lua", function()
  it("measures each workload with concur and the limit", function()
    local json = support.tmpdir() .. "/result.json"
    local result = bench { "--only", "concur,limit", "--seconds", "0.001", "--json", json }
    assert.equal(0, result.code, support.describe(result))
    assert.is_nil(result.stdout:find("FAILED", 1, true), support.describe(result))
    local text = support.read_file(json)
    for _, path in ipairs(support.files("bench/workloads", "%.lua$")) do
      local name = path:match "([^/]*)%.lua$"
      assert.truthy(text:find(('"name": "%s"'):format(name), 1, true), name .. " is not in the run")
    end
    local picture = support.read_file((json:gsub("json$", "svg")))
    assert.truthy(picture:find "^<svg .*</svg>\n$")
  end)

  it("says which peer is missing and goes on without it", function()
    local directory = support.tmpdir()
    support.write_file(directory .. "/node", "#!/bin/sh\nexit 1\n")
    assert(os.execute("chmod +x " .. support.quote(directory .. "/node")))
    local result = bench({ "--json", directory .. "/result.json", "sleep0_1" }, {
      PATH = directory .. ":" .. os.getenv "PATH",
    })
    assert.equal(0, result.code, support.describe(result))
    assert.truthy(result.stdout:find "node +MISSING: not measured %(install nodejs%)")
    assert.truthy(support.read_file(directory .. "/result.json"):find '"node": "nodejs"')
  end)

  it("lists the workloads", function()
    local result = bench { "--list" }
    assert.equal(0, result.code, support.describe(result))
    for _, path in ipairs(support.files("bench/workloads", "%.lua$")) do
      assert.truthy(result.stdout:find(path:match "([^/]*)%.lua$", 1, true), path)
    end
  end)

  for _, case in ipairs {
    { { "sleep0_0" }, "there is no workload 'sleep0_0'" },
    { { "--only", "concur,perl" }, "there is no implementation 'perl'" },
    { { "--rounds", "many" }, "--rounds needs a positive number" },
    { { "--rounds" }, "--rounds needs a value" },
    { { "--fast" }, "unknown option '--fast'" },
  } do
    it("refuses `" .. table.concat(case[1], " ") .. "`", function()
      local result = bench(case[1])
      assert.equal(2, result.code, support.describe(result))
      assert.truthy(result.stderr:find(case[2], 1, true), support.describe(result))
    end)
  end
end)
