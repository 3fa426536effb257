-- The benchmarks run, report what is missing, and refuse what they do not know. How fast anything
-- is does not matter here.
local support = require "spec.support"

local function bench(args, env)
  env = env or {}
  env.CONCUR_BENCH_QUICK = "1"
  env.CONCUR_BUILD = support.build
  env.CONCUR_LUA = support.lua
  -- The limits are C that is not instrumented: it frees nothing, and TSan does not see its atomics.
  env.ASAN_OPTIONS = "detect_leaks=0"
  env.TSAN_OPTIONS = (os.getenv "TSAN_OPTIONS" or "") .. ":ignore_noninstrumented_modules=1"
  return support.run_file("bench/run.lua", { args = args, env = env, timeout = 120 })
end

-- A part of the harness, which finds its own parts below bench/.
local function harness(name)
  local path = package.path
  package.path = support.root .. "/bench/?.lua;" .. path
  local module = require("harness." .. name)
  package.path = path
  return module
end

-- The names that a run with these words prints with --list.
local function listed(...)
  local result = bench { "--list", ... }
  assert.equal(0, result.code, support.describe(result))
  local names = {}
  for name in result.stdout:gmatch "([%w_]+)[^\n]*\n" do
    names[#names + 1] = name
  end
  return names
end

describe("bench/run.lua", function()
  it("measures each workload with concur and the limit", function()
    local json = support.tmpdir() .. "/result.json"
    local result = bench { "--only", "concur,limit", "--seconds", "0.001", "--json", json }
    assert.equal(0, result.code, support.describe(result))
    assert.is_nil(result.stdout:find("FAILED", 1, true), support.describe(result))
    local text = support.read_file(json)
    for _, name in ipairs(listed()) do
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

  it("finds every file of workloads", function()
    local names = " " .. table.concat(listed(), " ") .. " "
    for _, path in ipairs(support.files("bench/workloads", "%.lua$")) do
      local file = path:match "([^/]*)%.lua$"
      assert.truthy(names:find(" " .. file .. "[ _]"), path)
    end
  end)

  it("takes the beginning of a name for all that begin with it", function()
    assert.same({ "echo_1_64", "echo_1_1k", "echo_1_16k", "echo_50_64", "echo_50_1k", "echo_50_16k",
      "echo_1000_64", "echo_1000_1k", "echo_1000_16k" }, listed "echo")
    assert.same({ "echo_50_64", "echo_50_1k", "echo_50_16k" }, listed "echo_50")
    assert.same({ "queue_64", "queue_1", "echo_1_64" }, listed("echo_1_64", "queue", "queue_1"))
  end)

  it("measures an echo server of each peer that is there", function()
    local json = support.tmpdir() .. "/result.json"
    local result = bench { "--json", json, "echo_50_16k" }
    assert.equal(0, result.code, support.describe(result))
    local out = result.stdout
    for _, title in ipairs { "lua%-luv", "lua%-cqueues", "Python, uvloop", "uvloop, Protocol",
      "node" }
    do
      local missing = out:find(title .. " +MISSING")
      local measured = out:find(title .. " +[%d.]+ [^\n]* x concur\n")
      assert.truthy((missing or measured) and not (missing and measured), title .. "\n" .. out)
    end
    assert.truthy(out:find "goal: 0.80 x as fast as limit: [%d.]+ %b(), [mM]", out)
    assert.truthy(out:find "goal: ahead of every peer: ", out)
    local cells = support.read_file((json:gsub("%.json$", "-echo.md"))):match "\n(| TCP echo[^\n]*)"
    assert.truthy(cells:find "| TCP echo, 50 x 16 KiB | .* 0.80 x as fast as limit: is ", cells)
  end)

  for _, case in ipairs {
    { { "sleep0_0" }, "there is no workload 'sleep0_0'" },
    { { "echo_64" }, "there is no workload 'echo_64'" },
    { { "ech" }, "there is no workload 'ech'" },
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

describe("goals of the benchmarks", function()
  local function judge(goal, samples)
    local workload = { goals = { goal }, concur = true, limit = true, luv = true, node = true }
    return harness("goals").judge(workload, samples)[1]
  end

  it("compare the rounds one by one", function()
    local verdict = judge({ "limit", at_most = 1.25 }, {
      concur = { 12, 240, 3 },
      limit = { 10, 200, 2 },
    })
    assert.same({ against = "limit", at_most = 1.25, met = true,
      ratio = { median = 1.2, min = 1.2, max = 1.5 } }, verdict)
  end)

  it("may be a share of the limit's speed", function()
    assert.is_true(judge({ "limit", faster = 0.9 }, { concur = { 10 }, limit = { 9 } }).met)
    assert.is_false(judge({ "limit", faster = 0.9 }, { concur = { 10 }, limit = { 8.9 } }).met)
  end)

  it("are not known where one side was not measured", function()
    local verdict = judge({ "node", faster = 2 }, { concur = { 10 } })
    assert.same({ against = "node", faster = 2 }, verdict)
  end)

  it("against all peers mean the fastest, and not the limit", function()
    local samples = { concur = { 10 }, limit = { 5 }, luv = { 30 }, node = { 11 } }
    local verdict = judge({ "peers", faster = 1 }, samples)
    assert.same({ "node", 1.1, true }, { verdict.fastest, verdict.ratio.median, verdict.met })
    samples.luv = { 9 }
    verdict = judge({ "peers", faster = 1 }, samples)
    assert.same({ "luv", 0.9, false }, { verdict.fastest, verdict.ratio.median, verdict.met })
  end)

  it("against all peers are met only if all were measured, and missed if one is ahead", function()
    local verdict = judge({ "peers", faster = 1 }, { concur = { 10 }, luv = { 30 } })
    assert.is_nil(verdict.met)
    assert.same({ "node" }, verdict.unmeasured)
    assert.is_false(judge({ "peers", faster = 1 }, { concur = { 10 }, luv = { 9 } }).met)
  end)
end)

describe("the history of the benchmarks", function()
  local function compare(path, limit)
    local machine = { processor = "X", processors = "2", system = "Linux" }
    return harness("history").compare(path, machine, {
      { name = "echo_1000_16k", samples = { concur = { 10, 10, 10 }, limit = limit } },
    })
  end

  it("says which ratios moved", function()
    local path = support.tmpdir() .. "/bench.last"
    assert.truthy(compare(path, { 8, 8, 9 }):find "Nothing to compare with")
    assert.truthy(compare(path, { 8, 9, 9 }):find "1 ratios agree, 0 do not")
    local text = compare(path, { 5, 5, 5 })
    assert.truthy(text:find "0 ratios agree, 1 do not", text)
    assert.truthy(text:find("echo_1000_16k +limit +was 0.90 %(0.80 to 0.90%), is 0.50"), text)
  end)
end)

describe("bench/publish.lua", function()
  it("puts each table between its marks", function()
    local directory = support.tmpdir()
    support.write_file(directory .. "/run", ("mkdir docs build && cp -r %s . && cp %s docs"):format(
      support.quote(support.root .. "/bench"),
      support.quote(support.root .. "/docs/performance.md")))
    assert.equal(0, support.execute({ "sh", "run" }, { cwd = directory }).code)
    for _, name in ipairs { "bench.md", "bench-echo.md", "cores.md", "memory.md", "sweep.md",
      "bench.svg", "sweep.svg" }
    do
      support.write_file(directory .. "/build/" .. name, "made by " .. name .. "\n")
    end
    local result = support.run_file("bench/publish.lua", { cwd = directory,
      env = { CONCUR_BUILD = "build" } })
    assert.equal(0, result.code, support.describe(result))
    local text = support.read_file(directory .. "/docs/performance.md")
    for mark, name in pairs { results = "bench.md", echo = "bench-echo.md", cores = "cores.md",
      memory = "memory.md", curves = "sweep.md" }
    do
      assert.truthy(text:find(("<!-- %s -->\nmade by %s\n<!-- /%s -->"):format(mark, name, mark), 1,
        true), mark)
    end
    assert.equal("made by sweep.svg\n", support.read_file(directory .. "/docs/growth.svg"))
  end)
end)
