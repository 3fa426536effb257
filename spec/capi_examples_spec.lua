-- SPDX-License-Identifier: MIT
-- The C modules of examples/capi, built as a user builds them: from the installed rock, with none of
-- this source tree in sight. Then more of them, in the build tree, under whatever this run is under.

local concur = require "concur"
local installed = require "spec.support.installed"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local WARNINGS = { "-Wall", "-Wextra", "-pedantic", "-Werror", "-Wshadow" }

-- The output of a command that must succeed.
local function output_of(argv, options)
  local result = support.execute(argv, options)
  assert.equal(0, result.code, support.describe(result))
  return result.stdout
end

describe("the examples, with the installed rock", function()
  local directory

  -- A copy of examples/capi in which `make` was run.
  local function built()
    if not directory then
      directory = support.build .. "/examples_capi"
      output_of { "rm", "-rf", directory }
      output_of { "cp", "-R", "examples/capi", directory }
      local env = installed.environment()
      env.MAKEFLAGS, env.MAKELEVEL = false, false -- of the `make` that runs this
      env.CFLAGS = table.concat(WARNINGS, " ") .. " -O2"
      output_of({ "make", "-s", "-C", directory }, { env = env, timeout = 120 })
    end
    return directory
  end

  local function demo(name)
    return output_of({ "lua5.4", built() .. "/demo_" .. name .. ".lua" },
      { env = installed.environment(built()), timeout = 60 })
  end

  it("find the header where include_dir says", function()
    local result = installed.run 'print(require("concur").include_dir())'
    assert.equal(0, result.code, support.describe(result))
    assert.equal(installed.tree() .. "/share/lua/5.4/concur/include\n", result.stdout)
    assert.equal(support.read_file(support.root .. "/include/concur.h"),
      support.read_file(result.stdout:gsub("\n", "") .. "/concur.h"))
  end)

  it("lines: the module of the tutorial", function()
    assert.equal("true\ntrue\n"
      .. "nil\tlines.count no/such/file: no such file or directory (ENOENT)\n", demo "lines")
  end)

  it("csqlite: queries in flight while the loop ticks, and one that is interrupted", function()
    assert.equal([[
Sirius	-1.46
Canopus	-0.74
Vega	0.03
nil	no such table: planets
true
false
1
true
]], demo "sqlite")
  end)

  it("czlib: CPU work on threads", function()
    assert.matches("the loop went on meanwhile: true\n.*crc32: cbf43926\n", demo "zlib")
  end)

  it("host: a program with a poll loop of its own", function()
    local out = output_of({ built() .. "/host", built() .. "/host_script.lua" },
      { env = installed.environment() })
    local ticks, lines = 0, {}
    for line in out:gmatch "[^\n]+" do
      ticks = ticks + (line == "host: tick" and 1 or 0)
      lines[line] = true
    end
    assert.equal(5, ticks)
    for _, line in ipairs { "task: nap 1", "task: nap 3", "task: a thread says HELLO" } do
      assert.is_true(lines[line], out)
    end
  end)

  it("host: says what is wrong with its script", function()
    local script = support.tmpdir() .. "/bad.lua"
    support.write_file(script, 'error "bad script"')
    local result = support.execute({ built() .. "/host", script },
      { env = installed.environment() })
    assert.equal(1, result.code)
    assert.matches("bad script", result.stderr)
  end)

  it("need no symbol of concur", function()
    for _, name in ipairs { "lines.so", "csqlite.so", "czlib.so", "host" } do
      local symbols = output_of { "nm", "-D", "--undefined-only", built() .. "/" .. name }
      assert.is_nil(symbols:find "concur_")
      assert.is_nil(symbols:find " uv_")
    end
  end)
end)

describe("the header", function()
  local includes = { "-I" .. support.root .. "/include" }
  for flag in output_of({ "pkg-config", "--cflags", "lua5.4" }):gmatch "%S+" do
    includes[#includes + 1] = flag
  end

  -- Compiles text with all warnings as errors.
  local function compile(compiler, standard, text, extension, more)
    local path = support.tmpdir() .. "/user." .. extension
    support.write_file(path, text)
    local argv = { compiler, "-std=" .. standard, "-c", "-fPIC", "-o", path .. ".o", path }
    for _, list in ipairs { more or {}, WARNINGS, includes } do
      table.move(list, 1, #list, #argv + 1, argv)
    end
    output_of(argv, { timeout = 60 })
    return path .. ".o"
  end

  local USER = '#include <concur.h>\nint luaopen_user(lua_State *L);\n'
    .. 'int luaopen_user(lua_State *L) { return concur_api_get(L) == 0; }\n'
  local compilers = { { "gcc", "g++" }, { "clang", "clang++" } }

  for _, pair in ipairs(compilers) do
    local c, cpp = pair[1], pair[2]
    if c == "gcc" or support.has_command(c) then
      it("is clean C for " .. c, function()
        for _, standard in ipairs { "c99", "c11", "c17" } do
          compile(c, standard, USER, "c", { "-Wconversion", "-Wundef", "-Wstrict-prototypes" })
        end
      end)

      it("is clean C++ for " .. cpp, function()
        local user = USER:gsub("int luaopen", 'extern "C" int luaopen')
        for _, standard in ipairs { "c++11", "c++17", "c++20" } do
          compile(cpp, standard, user, "cpp", { "-Wconversion" })
        end
      end)
    end
  end

  it("lets a module be written in C++", function()
    local text = support.read_file(support.root .. "/examples/capi/lines.c")
      :gsub("int luaopen_", 'extern "C" int luaopen_')
    compile("g++", "c++17", text, "cpp")
  end)

  -- A module that was compiled against another version, loaded by the interpreter.
  local function load_lines(define, env)
    local object = compile("gcc", "gnu11",
      support.read_file(support.root .. "/examples/capi/lines.c"), "c", { define })
    local folder = object:match "^(.*)/"
    output_of { "gcc", "-shared", "-o", folder .. "/lines.so", object }
    return support.run_lua([[
      package.cpath = arg[1] .. "/?.so;" .. package.cpath
      print(select(2, pcall(require, "lines")))
    ]], { args = { folder }, env = env, lua = "lua5.4" })
  end

  it("says what to do when concur is too old for a module", function()
    local result = load_lines("-DCONCUR_API_NEEDED=99", installed.environment())
    assert.equal("this module needs version 99 of the C API of concur, but the concur that is "
      .. "installed has version 1: install a newer concur\n", result.stdout,
      support.describe(result))
  end)

  it("says what to do when concur is missing", function()
    local result = load_lines("-DX", { LUA_PATH = "?.none", LUA_CPATH = "?.none" })
    assert.matches("^this module needs the rock 'concur', which cannot be loaded: ", result.stdout)
  end)

  it("runs a module that was compiled when the table was shorter", function()
    local header = support.read_file(support.root .. "/include/concur.h")
    local shorter, count = header:gsub("\n  int %(%*alive%)%(lua_State %*L%);", "")
    assert.equal(1, count)
    local folder = support.tmpdir()
    support.write_file(folder .. "/concur.h", shorter)
    local result = load_lines("-I" .. folder, installed.environment())
    assert.matches("^table: ", result.stdout, support.describe(result))
  end)
end)

-- The members of concur_api, as they were released. Append to this list, change nothing in it.
local MEMBERS = [[
  future_new future_retain future_release settle fail settle_cancelled cancelled submit await join
  cancel loop loop_retain loop_release post hold unhold now timer_new timer_set timer_stop
  timer_free fd_ready push_error push_os_error step fd next_timeout alive
]]

describe("the table of the C API", function()
  it("is only ever appended to", function()
    local header = support.read_file(support.root .. "/include/concur.h")
    local declared = {}
    for name in header:match "typedef struct concur_api {(.*)} concur_api;"
      :gmatch "\n  [%w_ ]+%*?%(%*([%w_]+)%)%(" do
      declared[#declared + 1] = name
    end
    local released = {}
    for name in MEMBERS:gmatch "%S+" do
      released[#released + 1] = name
    end
    assert.same(released, declared)
  end)
end)

describe("the reference of the C API", function()
  it("describes each function of the header: its declaration, and its thread", function()
    local page = support.read_file(support.root .. "/docs/reference/c_api.md")
    local header = support.read_file(support.root .. "/include/concur.h")
    local count = 0
    for result, name, parameters in header:match "typedef struct concur_api {(.*)} concur_api;"
      :gmatch "\n  ([%w_ ]+%*?)%(%*([%w_]+)%)(%b())" do
      count = count + 1
      local declaration = (result .. name .. parameters .. ";"):gsub("%s+", " ")
      assert.is_truthy(page:gsub("%s+", " "):find(declaration, 1, true), declaration)
      assert.matches("\n### [^\n]*`" .. name .. "`", page)
    end
    assert.equal(29, count)
    for section in page:gmatch "\n### `[^\n]+\n\n(```c\n.-)\n##" do
      assert.is_truthy(section:find "[Tt]hread: " or section:find "Thread: any", section)
    end
  end)
end)

describe("the tutorial", function()
  it("shows exactly the file that is tested, in 50 lines", function()
    local code = support.read_file(support.root .. "/examples/capi/lines.c")
    local page = support.read_file(support.root .. "/docs/tutorial-c-module.md")
    assert.equal(code, page:match "```c\n(/%* SPDX.-)```\n")
    assert.equal(50, select(2, code:gsub("\n", "\n")))
  end)
end)

describe("csqlite", function()
  local csqlite = require "csqlite"
  local ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
    .. "SELECT sum(n) FROM c"

  it("works at top level, in tasks and in workers", function()
    local function one()
      local sqlite = require "csqlite"
      local db <close> = assert(sqlite.open ":memory:")
      return assert(db:query "SELECT 1 AS one")[1].one
    end
    assert.equal(1, one())
    assert.equal(1, concur.run(one))
    assert.equal(1, concur.to_thread(one))
  end)

  it("gives values their types", function()
    local db <close> = assert(csqlite.open ":memory:")
    local row = assert(db:query("SELECT ? AS a, ? AS b, ? AS c, ? AS d, ? AS e", 1, 2.5, "x\0y",
      nil, true))[1]
    assert.same({ a = 1, b = 2.5, c = "x\0y", e = 1 }, row)
    assert.equal("integer", math.type(row.a))
    assert.same({}, assert(db:query "-- nothing"))
  end)

  it("returns nil and SQLite's message", function()
    local db <close> = assert(csqlite.open ":memory:")
    local ok, message = db:exec "NONSENSE"
    assert.is_nil(ok)
    assert.matches("syntax error", message)
    ok, message = csqlite.open "/no/such/folder/file.db"
    assert.is_nil(ok)
    assert.matches("unable to open", message)
  end)

  it("refuses what it cannot bind, and a closed connection", function()
    local db = assert(csqlite.open ":memory:")
    assert.matches("values for a query", virtual.failure(db.query, db, "SELECT ?", {}))
    db:close()
    db:close()
    assert.matches("closed", virtual.failure(db.exec, db, "SELECT 1"))
    assert.matches("closed", tostring(db))
  end)

  it("interrupts the statement that was cancelled, and no other", function()
    local db <close> = assert(csqlite.open ":memory:")
    concur.run(function()
      local stuck = concur.spawn(db.query, db, ENDLESS)
      local waiting = concur.spawn(db.query, db, "SELECT 2 AS two")
      local never = concur.spawn(db.query, db, ENDLESS)
      concur.sleep(0.02)
      never:cancel()
      stuck:cancel()
      assert.equal(2, assert(waiting:result())[1].two)
      assert.is_true(concur.settle(stuck, never) ~= nil)
      assert.is_true(stuck:cancelled() and never:cancelled())
    end)
  end)

  it("ends a query whenever it is cancelled, also while it begins", function()
    local db <close> = assert(csqlite.open ":memory:")
    for i = 1, 100 do
      assert.is_false((concur.move_on_after(i / 50000, db.query, db, ENDLESS)))
    end
    assert.equal(1, assert(db:query "SELECT 1 AS one")[1].one)
  end)

  it("lets a state close in the middle of a query", function()
    local result = support.run_lua([[
      local concur = require "concur"
      local db = assert(require("csqlite").open ":memory:")
      concur.spawn(db.query, db, arg[1])
      concur.spawn(db.query, db, arg[1])
      concur.sleep(0.02)
    ]], { args = { ENDLESS }, timeout = 10 })
    assert.equal(0, result.code, support.describe(result))
    assert.equal("", result.stderr)
  end)
end)

describe("czlib", function()
  local czlib = require "czlib"

  it("gives back what it was given", function()
    for _, text in ipairs { "", "x", ("abc"):rep(300000), string.char(0, 255):rep(1000) } do
      assert.equal(text, assert(czlib.decompress(czlib.compress(text))))
    end
    assert.equal(0x29058c73, czlib.crc32(string.char(table.unpack((function()
      local bytes = {}
      for i = 0, 255 do
        bytes[#bytes + 1] = i
      end
      return bytes
    end)()))))
  end)

  it("refuses what is not zlib's format, or ends too early", function()
    for _, text in ipairs { "nonsense", "", czlib.compress(("abc"):rep(1000)):sub(1, -6) } do
      local data, message = czlib.decompress(text)
      assert.is_nil(data)
      assert.matches("not in zlib format", message)
    end
    assert.matches("level", virtual.failure(czlib.compress, "", 10))
  end)

  it("stops between two blocks when it is cancelled", function()
    local text = {}
    for i = 1, 200000 do
      text[i] = ("%d %x"):format(i, i * 2654435761 % 2 ^ 32 // 1 | 0)
    end
    text = table.concat(text):rep(10)
    concur.run(function()
      assert.is_false((concur.move_on_after(0.005, czlib.compress, text, 9)))
    end)
  end)
end)

describe("the host program of this build", function()
  local function host(path)
    local result = support.execute({ support.build .. "/capi_host", path }, { env = {
      LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
      LUA_CPATH = support.build .. "/?.so;;",
    } })
    assert.equal(0, result.code, support.describe(result))
    return result.stdout
  end

  it("drives the loop from its own", function()
    assert.matches("task: nap 3", host "examples/capi/host_script.lua")
  end)

  it("ends when the last task has, also after everything of its own", function()
    local path = support.tmpdir() .. "/long.lua"
    support.write_file(path, [[
      local concur = require "concur"
      concur.spawn(function()
        concur.sleep(0.2)
        print(concur.to_thread(string.upper, "the last"))
      end)]])
    assert.matches("THE LAST\n", host(path))
  end)
end)

describe("a debug build", function()
  local NAMES = { "future_new", "submit", "await", "join", "cancel", "loop", "hold", "unhold",
    "now", "timer_new", "timer_set", "timer_stop", "timer_free", "fd_ready", "push_error",
    "push_os_error", "step", "fd", "next_timeout", "alive" }

  it("names the function that was called on the wrong thread, and ends", function()
    local cpath = support.build .. "/debug/?.so;" .. support.build .. "/?.so;;"
    for _, name in ipairs(NAMES) do
      local result = support.run_lua(
        'require("capi_probe").wrong_thread(arg[1]) print "nothing was noticed"',
        { args = { name }, env = { LUA_CPATH = cpath } })
      assert.matches("concur: " .. name .. " of concur%.h was called on the wrong thread",
        result.stderr)
      assert.are_not.equal(0, result.code)
      assert.equal("", result.stdout)
    end
  end)
end)
